"""GeoWizard exported: one bundle, two results a call, of a batch, in half precision."""

import numpy as np
import pytest
import torch

import e2e_deploy as e2e
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.errors import UsageError
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from tests.family_checkpoints.geowizard import write_geowizard


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_geowizard(tmp_path_factory.mktemp("geowizard") / "checkpoint", lively=False)


def test_both_results_of_every_frame_are_the_reference(checkpoint, tmp_path):
    bundle = export_bundle(
        checkpoint,
        tmp_path / "bundle",
        precision="fp16",
        frame_sizes=[(48, 64)],
        resolution=64,
        batch=2,
        domain="outdoor",
        engine="onnx",
    )
    manifest = bundle.manifest
    assert (manifest.family, manifest.task) == ("geowizard", "geometry")
    assert manifest.settings == {"domain": "outdoor"}
    assert {(entry.output, entry.passed) for entry in manifest.verification} == {
        ("depth", True),
        ("normals", True),
    }
    frames = reference_frames((48, 64), 2)
    model = load_model(open_checkpoint(checkpoint, settings={"domain": "outdoor"}))
    with torch.inference_mode():
        plan = model.plan((48, 64), 64)
        results = FrameModel(model, plan, manifest.outputs)(torch.from_numpy(frames))
    depth, normals = (result.numpy() for result in results)
    with e2e.load(bundle, backend="onnxruntime") as engine:
        got = engine(frames)
    assert list(got) == ["depth", "normals"]
    assert np.abs(got["depth"] - depth).max() < 0.02
    assert (got["normals"] * normals).sum(axis=-1).mean() > 0.999
    assert np.abs(depth[0] - depth[1]).max() > 0.02  # another frame, another result


def test_a_graph_whose_context_is_of_the_picture_has_fixed_sides(checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"GeoWizard .* is made for one size, so its graph cannot"):
        export_bundle(checkpoint, tmp_path / "bundle", graph="core", dynamic=True, resolution=512)
