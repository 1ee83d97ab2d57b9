"""StableNormal-turbo exported: noise of a seed that the manifest tells, constants for each size, in half precision."""

import numpy as np
import pytest
import torch

import e2e_deploy as e2e
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from tests.family_checkpoints.stablenormal import write_stablenormal

SIZES = [(40, 64), (64, 48)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_stablenormal(tmp_path_factory.mktemp("stablenormal") / "checkpoint")


@pytest.mark.parametrize(("precision", "sizes"), [("fp32", SIZES), ("fp16", SIZES[:1])])
def test_every_size_is_the_reference_of_its_seed(checkpoint, tmp_path, precision, sizes):
    named = {"family": "stablenormal-turbo"}
    bundle = export_bundle(
        checkpoint,
        tmp_path / "bundle",
        precision=precision,
        frame_sizes=sizes,
        resolution=64,
        seed=3,
        engine="onnx",
        **named,
    )
    manifest = bundle.manifest
    assert (manifest.settings, manifest.outputs) == ({"seed": "3"}, ["normals"])
    assert [entry.passed for entry in manifest.verification] == [True] * len(sizes)
    model = load_model(open_checkpoint(checkpoint, settings={"seed": "3"}, **named))
    frames = reference_frames(sizes[0], 1)
    with torch.inference_mode():
        plan = model.plan(sizes[0], 64)
        results = FrameModel(model, plan, manifest.outputs)(torch.from_numpy(frames))
    with e2e.load(bundle, backend="onnxruntime") as engine:
        found = engine(frames[0])
    assert found.shape == (*sizes[0], 3)
    cosine = (found * results[0].numpy()).sum(axis=-1)
    assert cosine.mean() > (1 - 1e-5 if precision == "fp32" else 0.99)
    assert np.ptp(found) > 0.5
