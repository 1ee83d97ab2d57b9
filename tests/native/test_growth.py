"""The C library for hours: thousands of frames and of engines without growth, and all of it under the sanitizers."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError
from tests.native.build import build, program, run
from tests.plain_bundle import edit_manifest, rehash, write_plain_bundle

CYCLES, FRAMES = 1000, 10_000
ALLOWED_KIB = 2048
"""What the heap may gain by chance; a leak of one map of 24x32 in every frame would be 30 MiB."""
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def environment(native_onnxruntime):
    return os.environ | {"E2E_DEPLOY_ONNXRUNTIME": str(native_onnxruntime)}


@pytest.fixture(scope="module")
def sanitized_build():
    if not {os.environ.get("REQUIRE_NATIVE"), os.environ.get("NATIVE_SANITIZERS")} & {"1"}:
        pytest.skip("another build of the library: NATIVE_SANITIZERS=1 makes it")
    return build("sanitized", "-DE2E_DEPLOY_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=None")


def test_engines_and_frames_by_the_thousand_take_no_more_memory(
    native_build, environment, tmp_path
):
    turns = program("turns", native_build, tmp_path)
    said = run(turns, write_plain_bundle(tmp_path / "bundle"), CYCLES, FRAMES, env=environment)
    grown = {what: int(kib) for what, kib in re.findall(r"(\w+) (-?\d+) KiB", said)}
    assert set(grown) == {"cycles", "frames"}
    assert max(grown.values()) < ALLOWED_KIB, said


@pytest.mark.slow
def test_nothing_is_lost_or_undefined_under_the_sanitizers(sanitized_build, environment, tmp_path):
    turns = program("turns", sanitized_build, tmp_path, *SANITIZE)
    said = run(turns, write_plain_bundle(tmp_path / "bundle"), 20, 200, env=environment)
    assert "200 frames" in said


def mutants(folder, whole, rng, count):
    """Copies of a bundle with a few bytes changed, taken out or put in: of the manifest, or of the graph."""
    for number in range(count):
        copy = shutil.copytree(whole, folder / str(number))
        name = ("manifest.json", "model_24x32.onnx")[number % 2]
        data = bytearray((copy / name).read_bytes())
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            match int(rng.integers(3)):
                case 0:
                    data[at] = int(rng.integers(256))
                case 1:
                    del data[at : at + int(rng.integers(1, 9))]
                case 2:
                    data[at:at] = data[at : at + int(rng.integers(1, 9))]
        (copy / name).write_bytes(data)
        if name != "manifest.json":
            rehash(copy, name)
        yield copy


def pythons_code(folder):
    try:
        open_bundle(folder)
    except E2EDeployError as error:
        return error.exit_code
    return 0


@pytest.mark.slow
def test_mutants_of_a_bundle_are_refused_as_python_refuses_them(
    sanitized_build, environment, tmp_path
):
    whole = write_plain_bundle(tmp_path / "whole")
    folders = list(mutants(tmp_path, whole, np.random.default_rng(0), 300))
    opens = program("opens", sanitized_build, tmp_path, *SANITIZE)
    done = subprocess.run(
        [opens],
        input="\n".join(map(str, folders)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    # What both open may still be no graph of ONNX Runtime's, which says so when an engine is made.
    refused = {folder: pythons_code(folder) for folder in folders}
    assert [bool(code) or not refused[f] for code, f in zip(codes, folders, strict=True)] == [
        True
    ] * len(codes)
    assert {code for code, f in zip(codes, folders, strict=True) if refused[f]} == {5}
    assert len([f for f in folders if refused[f]]) > 100
    assert codes.count(0) > 10


def test_a_bundle_with_a_long_text_is_as_python_has_it(native, tmp_path):
    folder = write_plain_bundle(tmp_path / "bundle")
    edit_manifest(folder, lambda manifest: manifest["notes"].append("深" * 5000))
    with native.bundle(folder) as bundle:
        assert bundle.facts["notes"] == open_bundle(folder).manifest.notes
