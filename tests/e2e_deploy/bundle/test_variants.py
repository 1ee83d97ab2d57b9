"""A second form of a graph in a bundle: what its entry may say, and what its file may hold that no other may."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError
from tests.plain_bundle import (
    HW,
    add_variant,
    edit_manifest,
    plain_model,
    rehash,
    write_plain_bundle,
)

PORTABLE, VARIANT = "model_24x32.onnx", "model_24x32-onnxruntime-cuda.onnx"


@pytest.fixture
def root(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    add_variant(root)
    return root


def norm(groups=2, channels=4, weights=("gamma", "beta"), sides=1, domain="com.microsoft"):
    """The plain graph with a GroupNorm of ONNX Runtime that nothing takes."""
    model = plain_model(HW)
    values = [np.ones((channels,) * sides, np.float32)] * 2
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in zip(weights, values, strict=True)
    )
    facts = {} if groups is None else {"groups": groups}
    inputs = ["rgb", "gamma", "beta"]
    model.graph.node.append(helper.make_node("GroupNorm", inputs, ["n"], domain=domain, **facts))
    return model


def put(root, name, model):
    onnx.save(model, root / name)
    rehash(root, name)


def test_it_is_opened_with_the_bundle(root):
    put(root, VARIANT, norm())
    (graph,) = open_bundle(root).manifest.graphs
    assert graph.file_for("onnxruntime-cuda") == VARIANT
    assert graph.onnx == PORTABLE


def test_only_a_variant_may_have_its_operators(root):
    put(root, PORTABLE, norm())
    with pytest.raises(BundleError, match=f"{PORTABLE} holds .*GroupNorm.*no operator of our"):
        open_bundle(root)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (norm(groups=0), "of 0 groups, which its channels do not have"),
        (norm(groups=None), "of 0 groups"),
        (norm(groups=-1), "of -1 groups"),
        (norm(groups=5), "of 5 groups"),
        (norm(sides=2), "of 2 groups"),
        (norm(weights=("gamma", "other")), "whose weights are no constants"),
        (norm(domain="ai.onnx.contrib"), "no operator of our graphs"),
    ],
)
def test_groups_that_would_be_divided_by(root, model, match):
    """ONNX Runtime counts channels a group while it loads, before it looks at them."""
    put(root, VARIANT, model)
    with pytest.raises(BundleError, match=match):
        open_bundle(root)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g["variants"][0].update(target="npu"), "target is 'npu'"),
        (lambda g: g["variants"][0].update(onnx="model.data"), "must be an .onnx file of its own"),
        (lambda g: g["variants"][0].update(onnx=g["onnx"]), "must be an .onnx file of its own"),
        (lambda g: g["variants"].append(g["variants"][0]), "two variants for onnxruntime-cuda"),
        (lambda g: g["variants"][0].update(onnx="gone.onnx"), "gone.onnx is not listed"),
        (lambda g: g["variants"][0].update(onnx="../a.onnx"), "not listed"),
        (lambda g: g.pop("variants"), "variants is missing"),
    ],
)
def test_a_manifest_that_lies_about_it(root, change, match):
    edit_manifest(root, lambda manifest: change(manifest["graphs"][0]))
    with pytest.raises(BundleError, match=match):
        open_bundle(root)


@pytest.mark.parametrize("missing", [True, False])
def test_its_file_is_hashed_like_every_other(root, missing):
    file = root / VARIANT
    if missing:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(BundleError, match=f"{VARIANT} "):
        open_bundle(root)
