"""diffusers' pipeline beside our reference: the same mathematics, called the same way."""

import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch

from e2e_deploy.baselines.pipeline import PIPELINES
from e2e_deploy.errors import CheckpointError, UnavailableError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from e2e_deploy.runtime.checks import peer as module
from e2e_deploy.runtime.checks.peer import DiffusersPeer, peer_precision
from tests.small_checkpoint import edit_weights, write_small


@pytest.fixture
def frames(rng):
    return rng.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)


def ours(checkpoint, frames, resolution=0):
    plan = load_model(checkpoint).plan(frames.shape[1:3], resolution, 0)
    model = FrameModel(load_model(checkpoint), plan, checkpoint.identity.outputs)
    with torch.inference_mode():
        return model(torch.from_numpy(frames.copy())).numpy()


@pytest.mark.parametrize("family", ["marigold", "e2e-ft"])
@pytest.mark.parametrize("resolution", [0, 32])
def test_normals_are_the_references_axes_included(small_normals, frames, family, resolution):
    checkpoint = open_checkpoint(small_normals, family=family)
    peer = DiffusersPeer(checkpoint, resolution)
    found = peer(frames)
    assert found.shape == (2, 48, 64, 3)
    assert found.dtype == np.float32
    if family == "marigold":  # E2E-FT does not clip, and resizes back antialiased
        np.testing.assert_allclose(found, ours(checkpoint, frames, resolution), atol=2e-4)
    else:
        other = DiffusersPeer(open_checkpoint(small_normals, family="marigold"), resolution)(frames)
        np.testing.assert_array_equal(found, other * np.float32([-1, 1, 1]))


def test_depth_of_one_frame_and_of_one_that_may_not_be_written_to(tmp_path, frames):
    """A scheduler whose last step is x0 itself, as our model has it, and whose spacing would mean t = 1."""
    scheduler = {"set_alpha_to_one": True, "timestep_spacing": "leading"}
    checkpoint = open_checkpoint(write_small(tmp_path / "c", scheduler=scheduler))
    peer = DiffusersPeer(checkpoint)
    frames.setflags(write=False)
    found = peer(frames[0])
    assert found.shape == (48, 64)
    np.testing.assert_allclose(found, ours(checkpoint, frames[:1])[0], atol=2e-4)
    assert peer.processing_hw((47, 63)) == (48, 64)


def test_compiled_is_the_same_function_and_leaves_the_eager_one_as_it_is(
    small, frames, monkeypatch
):
    """Traced as torch.compile does, and run without a C++ compiler, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    peer = DiffusersPeer(open_checkpoint(small))
    before = peer(frames[0])
    compiled = peer.compiled()
    np.testing.assert_allclose(compiled(frames[0]), before, atol=1e-4)
    assert type(peer._own.pipeline.unet).__name__ == "UNet2DConditionModel"
    assert type(peer._own.pipeline.vae.decoder).__name__ == "Decoder"
    for network in (compiled._own.pipeline.unet, compiled._own.pipeline.vae.decoder):
        assert type(network).__name__ == "OptimizedModule"
    np.testing.assert_array_equal(peer(frames[0]), before)


def test_half_precision_on_the_cpu(small, frames):
    full, half = (
        DiffusersPeer(open_checkpoint(small), precision=precision)(frames[0])
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(full - half).max() < 0.1


def test_a_family_without_a_pipeline_is_refused_by_name(small, monkeypatch):
    monkeypatch.delitem(PIPELINES, ("marigold", "depth"))
    with pytest.raises(UsageError, match="no pipeline for depth of the family marigold"):
        DiffusersPeer(open_checkpoint(small))


def test_a_network_without_a_noise_latent_is_refused(tmp_path):
    folder = write_small(tmp_path / "rgb", unet={"in_channels": 4})
    with pytest.raises(UsageError, match="picture's alone"):
        DiffusersPeer(open_checkpoint(folder))


def test_without_diffusers(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UnavailableError, match=r"'diffusers' is not installed: pip install"):
        DiffusersPeer(open_checkpoint(small))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_torch_does_not_see(small):
    with pytest.raises(UnavailableError, match="sees no GPU"):
        DiffusersPeer(open_checkpoint(small), device="cuda:0")


def test_weights_that_are_not_there_are_not_made_up(small, tmp_path):
    """diffusers' own loading takes random numbers for them."""
    folder = shutil.copytree(small, tmp_path / "c")
    edit_weights(folder, "unet", lambda tensors: {k: tensors[k] for k in list(tensors)[1:]})
    with pytest.raises(CheckpointError, match="lacks 1 weights its config.json asks for"):
        DiffusersPeer(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("precision", "on_gpu", "units", "computed"),
    [
        ("fp32", True, [], "fp32"),
        ("fp16", True, [], "fp16"),
        ("bf16", True, [], "bf16"),
        ("int8", True, [], "fp16"),
        ("fp32", False, ["AMX"], "fp32"),
        ("fp16", False, ["AMX"], "fp32"),
        ("int8", False, ["AMX"], "fp32"),
        ("bf16", False, ["AMX"], "bf16"),
        ("bf16", False, [], "fp32"),
    ],
)
def test_the_precision_class(precision, on_gpu, units, computed, monkeypatch):
    monkeypatch.setattr(module, "bf16_units", lambda: units)
    assert peer_precision(precision, on_gpu=on_gpu) == computed


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_a_gpu(small, frames, precision):
    on_cpu = DiffusersPeer(open_checkpoint(small))(frames)
    peer = DiffusersPeer(open_checkpoint(small), device="cuda:0", precision=precision)
    assert peer.device == torch.cuda.get_device_name(0)
    atol = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}[precision]
    np.testing.assert_allclose(peer(frames), on_cpu, atol=atol)
