"""Facts that stand in Python's tables and once more in the C library's sources: they must be the same."""

import hashlib
import json
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy import frames, names
from e2e_deploy.bundle import manifest, onnx_check, onnx_paths
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.kinds import KINDS
from e2e_deploy.runtime.steps import metric, steady
from e2e_deploy.system import json_files, records
from tests.native.build import SOURCE, require_tools, run
from tests.plain_bundle import write_plain_bundle


def source(name):
    return (SOURCE / "src" / name).read_text()


def table(text, name):
    """The quoted words of the table ``name`` in a source."""
    (inside,) = re.findall(rf"{name}(?:\[\])? = {{(.*?)}};", text, re.DOTALL)
    return re.findall('"([^"]*)"', inside)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("task_names", names.TASK_NAMES),
        ("result_kinds", names.RESULT_KINDS),
        ("precisions", names.PRECISIONS),
        ("graph_kinds", names.GRAPH_KINDS),
        ("graph_targets", names.GRAPH_TARGETS),
        ("plan_kinds", names.PLAN_KINDS),
        ("vae_parts", names.VAE_PARTS),
        ("dtypes", ("uint8", "float32")),
    ],
)
def test_names(name, choices):
    assert table(source("bundle/names.hpp"), name) == list(choices)


def test_kinds():
    text = source("bundle/kinds.cpp")
    units = dict(re.findall(r'char\* (\w+) = "([^"]*)"', text))
    row = (
        r'{"([^"]*)",\s*"([^"]*)",\s*"([^"]*)",\s*(\d),\s*(-?\d),\s*(\d),'
        r'\s*"([^"]*)",\s*(\w+|"[^"]*"),\s*(-?[\d.]+),\s*(true|false)}'
    )
    found = re.findall(row, text)
    assert len(found) == len(KINDS)
    for words, kind in zip(found, KINDS.values(), strict=True):
        name, output, form, channels, low, high, meaning, unit, power, linear = words
        assert (name, output, form, meaning) == (kind.name, kind.output, kind.form, kind.meaning)
        assert units.get(unit, unit.strip('"')) == kind.units
        assert (int(channels), float(low), float(high)) == (kind.channels, *kind.value_range)
        assert (float(power), linear == "true") == (kind.power, kind.is_linear)


def test_operators():
    text = source("bundle/onnx_check.cpp")
    standard, int8 = (
        set(re.findall('"([^"]*)"', words))
        for words in re.findall(r"std::string> names = {(.*?)};", text, re.DOTALL)
    )
    assert standard == onnx_check.OPERATORS
    assert int8 == onnx_check.INT8_OPERATORS
    (words,) = re.findall(r"generators = {(.*?)};", text)
    assert set(re.findall('"([^"]*)"', words)) == onnx_check._GENERATORS
    words = dict(re.findall(r'char\* (\w+) = "([^"]*)"', text))
    assert {(words["microsoft"], words["attention"])} == onnx_check.FUNCTIONS
    assert (words["microsoft"], words["group_norm"]) == onnx_check.GROUP_NORM
    assert list(onnx_check.TARGET_OPERATORS.items()) == [
        (table(source("bundle/names.hpp"), "graph_targets")[0], {onnx_check.GROUP_NORM})
    ]
    widths = {}
    for types, width in re.findall(r"((?:case \d+: )+)return (\d);", text.split("width_of")[1]):
        widths |= {int(number): int(width) for number in re.findall(r"\d+", types)}
    assert widths == onnx_check._WIDTHS


LIMITS = {
    "bundle/manifest.hpp": {
        "schema": manifest.SCHEMA,
        "max_batch": manifest.MAX_BATCH,
        "free_side": manifest.FREE,
        "max_side_px": manifest.MAX_SIDE_PX,
    },
    "bundle/json.hpp": {
        "max_json_bytes": json_files.MAX_BYTES,
        "max_json_depth": json_files.MAX_DEPTH,
    },
    "bundle/records.hpp": {"max_count": 2**53},
    "bundle/records.cpp": {"max_items": records.MAX_ITEMS, "max_problems": records.MAX_PROBLEMS},
    "bundle/text.cpp": {"max_text": records.MAX_TEXT},
    "bundle/onnx.hpp": {"largest_graph": onnx_check.LARGEST_GRAPH},
    "bundle/onnx_check.cpp": {
        "max_nodes": onnx_check.MAX_NODES,
        "max_function_nodes": onnx_check.MAX_FUNCTION_NODES,
        "max_rank": onnx_check.MAX_RANK,
        "max_elements": onnx_check.MAX_ELEMENTS,
    },
    "bundle/onnx_paths.cpp": {
        "max_node_fields": onnx_paths.MAX_NODE_FIELDS,
        "max_graph_fields": onnx_paths.MAX_GRAPH_FIELDS,
        "max_fields": onnx_paths.MAX_FIELDS,
        "max_beside": onnx_paths.MAX_BESIDE,
    },
    "steps/fit.cpp": {"min_side_px": frames.MIN_SIDE_PX, "max_pixels": frames.MAX_PIXELS},
    "steps/steady.cpp": {
        "cells": steady.CELLS,
        "keep": steady.KEEP,
        "cut_residual": steady.CUT,
        "average": steady.AVERAGE,
        "anchor": steady.ANCHOR,
        "fits": steady.FITS,
        "refits": steady.REFITS,
        "settle": steady.SETTLE,
    },
    "steps/metric.hpp": {"min_plane_inliers": metric.MIN_PLANE_INLIERS},
    "steps/metric.cpp": {
        "tolerance": metric.TOLERANCE,
        "bisquare": metric.BISQUARE,
        "max_plane_m": metric.MAX_PLANE_M,
        "min_points": metric.MIN_POINTS,
        "pairs": metric.PAIRS,
        "max_points": metric.MAX_POINTS,
    },
}


@pytest.mark.parametrize("file", LIMITS)
def test_limits(file):
    text = source(file)
    for name, value in LIMITS[file].items():
        (found,) = re.findall(rf"\b{name} = ([^,;]+)[,;]", text)
        # What C++ writes is Python too, but for its casts.
        assert eval(re.sub(r"\b(?:u?int64_t|size_t){(\d+)}", r"\1", found)) == value


def test_default_share_of_points_that_agree():
    assert f"double min_inliers = {metric.MIN_INLIERS}" in source("steps/metric.hpp")


@pytest.mark.parametrize("plain", [False, True])
def test_sha256(plain, tmp_path, rng):
    """With the processor's instructions where it has them, and without."""
    require_tools("g++")
    program = tmp_path / "check"
    run(
        *("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"),
        *(["-DE2E_DEPLOY_PLAIN_SHA256"] if plain else []),
        *(SOURCE.parent / "tests/native/programs/sha256.cpp", "-o", program),
    )
    for size in (0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 129, 1000, 100_003):
        data = rng.bytes(size)
        for piece in (1, 7, 64, 65, 4096) if size < 2000 else (8191,):
            done = subprocess.run([program, str(piece)], input=data, stdout=subprocess.PIPE)
            assert done.stdout.decode() == hashlib.sha256(data).hexdigest()


# What no version of Unicode has assigned yet is another question for every Python.
TEXT = st.text(st.characters(exclude_categories=("Cn",)), max_size=60)


@settings(max_examples=200)
@given(texts=st.lists(TEXT, max_size=5), as_ascii=st.booleans())
def test_texts_are_cleaned_alike(bundle_and_library, texts, as_ascii):
    folder, native = bundle_and_library
    path = folder / manifest.MANIFEST
    value = json.loads(path.read_text("utf-8", "surrogatepass"))
    value["notes"] = texts
    text = json.dumps(value, ensure_ascii=as_ascii)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    wanted = open_bundle(folder).manifest.notes
    with native.bundle(folder) as opened:
        assert opened.facts["notes"] == wanted


@pytest.fixture(scope="module")
def bundle_and_library(native, tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("texts") / "bundle"), native
