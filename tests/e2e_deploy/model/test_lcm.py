"""Marigold LCM in one step, beside diffusers' pipeline with its LCMScheduler."""

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, MarigoldDepthPipeline, MarigoldNormalsPipeline

from e2e_deploy.errors import CheckpointError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.schedule import boundary_scalings, last_step
from tests.peers import assert_equal_to_its_pipeline
from tests.small_checkpoint import edit_json, write_lcm

CONFIG = {"_class_name": "LCMScheduler", "prediction_type": "v_prediction"}


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("task", "pipeline"), [("depth", MarigoldDepthPipeline), ("normals", MarigoldNormalsPipeline)]
)
@pytest.mark.parametrize("from_noise", [False, True])
def test_one_step_is_the_pipelines(tmp_path, frame, task, pipeline, from_noise):
    folder = write_lcm(tmp_path / "c", task)
    noise = torch.randn((1, 4, 24, 32), generator=torch.Generator().manual_seed(0))
    latents = noise if from_noise else None
    assert_equal_to_its_pipeline(pipeline, folder, frame, latents=latents, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {},
        # where the boundary is far enough to be seen, and where its steps do not divide the schedule's
        {"timestep_scaling": 1e-3},
        {"original_inference_steps": 30},
        {"num_train_timesteps": 100, "original_inference_steps": 7, "timestep_scaling": 0.01},
        {"rescale_betas_zero_snr": True},
        {"prediction_type": "epsilon"},
    ],
)
def test_x0_is_what_the_scheduler_makes(config):
    config = CONFIG | config
    scheduler = LCMScheduler.from_config(config)
    scheduler.set_timesteps(1)
    output, xt = torch.randn((2, 1, 4, 3, 3), dtype=torch.float64)
    theirs = scheduler.step(output, scheduler.timesteps[0], xt).denoised
    step = last_step(config)
    assert step.timestep == int(scheduler.timesteps[0])
    ours = step.from_xt * xt + step.from_output * output
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_specialised_it_is_the_same(tmp_path, task):
    folder = write_lcm(tmp_path / "c", task, scheduler={"timestep_scaling": 1e-3})
    model = load_model(open_checkpoint(folder)).double()
    assert -0.9 < model.x0_from_output < -0.8  # the boundary is near enough to matter
    rgb = torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    with torch.no_grad():
        expected = model(rgb)
        found = specialise(model)[0](rgb)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_at_the_boundary_a_consistency_model_is_the_identity():
    """ArXiv 2310.04378, equation 9: c_skip(0) = 1, c_out(0) = 0; far from it the other way round."""
    assert boundary_scalings(0, 10.0) == (1.0, 0.0)
    skip, out = boundary_scalings(999, 10.0)
    assert 0 < skip < 1e-8
    assert 1 - 1e-8 < out < 1


def test_what_cannot_be(tmp_path):
    folder = write_lcm(tmp_path / "c")
    edit_json(folder / "scheduler" / "scheduler_config.json", original_inference_steps=2000)
    with pytest.raises(CheckpointError, match="describes no noise schedule: .*2000"):
        load_model(open_checkpoint(folder))
    edit_json(folder / "scheduler" / "scheduler_config.json", original_inference_steps="many")
    with pytest.raises(CheckpointError, match="original_inference_steps"):
        open_checkpoint(folder)
    rgb_alone = write_lcm(tmp_path / "text-to-image", unet={"in_channels": 4})
    with pytest.raises(CheckpointError, match=r"expected 8 \(rgb latent and noise\) in, 4 out"):
        open_checkpoint(rgb_alone)
