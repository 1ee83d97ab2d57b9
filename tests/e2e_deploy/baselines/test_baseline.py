"""Baselines beside diffusers' pipelines called by hand, and what their ensembles are."""

import shutil
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, MarigoldDepthPipeline, MarigoldNormalsPipeline

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.baselines.baseline import SEED, Baseline, Sampling
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from tests.small_checkpoint import STRIDE, edit_json, write_lcm, write_small

CLASSES = {"depth": MarigoldDepthPipeline, "normals": MarigoldNormalsPipeline}


def own_pipeline(folder, task, spacing):
    pipeline = CLASSES[task].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing=spacing
    )
    return pipeline


def as_tensor(picture):
    """Float RGB [1, 3, H, W]; contiguous, since the last bit of what the network sees decides how BFGS steps."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().float() / 255


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("task", "steps", "spacing", "ensemble"),
    [
        ("depth", 1, "trailing", 1),
        ("depth", 2, "leading", 3),
        ("normals", 2, "trailing", 1),
        ("normals", 1, "leading", 3),
    ],
)
def test_they_are_the_pipeline_called_by_hand(task, steps, spacing, ensemble):
    folder, picture = bundled_checkpoint(task), reference_frames((36, 48), 1)[0]
    sampling = Sampling(steps=steps, spacing=spacing, ensemble=ensemble, seed=7)
    baseline = Baseline(open_checkpoint(folder), sampling, resolution=64, device="cpu")
    found = baseline(picture)
    by_hand = own_pipeline(folder, task, spacing)(
        as_tensor(picture),
        num_inference_steps=steps,
        ensemble_size=ensemble,
        processing_resolution=64,
        generator=torch.Generator().manual_seed(7),
    ).prediction[0]
    assert baseline.task == task
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand[..., 0] if task == "depth" else by_hand, atol=1e-6)


def test_each_picture_starts_from_the_seed(small, frame):
    checkpoint, other = open_checkpoint(small), frame[:40]
    baseline = Baseline(checkpoint, Sampling(steps=2, seed=3), device="cpu")
    first = baseline(frame)
    baseline(other)
    np.testing.assert_array_equal(baseline(frame), first)
    assert np.abs(Baseline(checkpoint, Sampling(steps=2, seed=4))(frame) - first).max() > 1e-3
    by_default = Baseline(checkpoint, device="cpu")
    assert f"seed {SEED}," in by_default.describe()


def test_normals_of_an_ensemble_are_the_members_closest_to_their_mean(small_normals, frame):
    """At one step a member depends on its own noise alone, which is drawn one after another."""
    checkpoint = open_checkpoint(small_normals)
    noise = torch.randn((3, 4, 24, 32), generator=torch.Generator().manual_seed(5))
    pipeline = own_pipeline(small_normals, "normals", "trailing")
    members = np.stack(
        [
            pipeline(
                as_tensor(frame),
                num_inference_steps=1,
                processing_resolution=0,
                latents=each[None],
            ).prediction[0]
            for each in noise
        ]
    )
    mean = members.mean(axis=0)
    mean /= np.linalg.norm(mean, axis=2, keepdims=True)
    closest = (members * mean).sum(axis=3).argmax(axis=0)
    expected = np.take_along_axis(members, closest[None, ..., None], axis=0)[0]
    sampling = Sampling(steps=1, spacing="trailing", ensemble=3, seed=5)
    found = Baseline(checkpoint, sampling, resolution=0, device="cpu")(frame)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(closest)) == 3


def test_an_ensemble_of_one_picture_in_many_scales_is_that_picture(rng):
    """Alignment takes any affine map of a member away; what is left is its median, from 0 to 1."""
    depth = rng.uniform(0, 1, (1, 1, 20, 30))
    scales, shifts = rng.uniform(0.2, 1, (2, 5, 1, 1, 1))
    found, _ = MarigoldDepthPipeline.ensemble_depth(torch.from_numpy(depth * scales + shifts))
    stretched = (depth - depth.min()) / (depth.max() - depth.min())
    np.testing.assert_allclose(found.numpy(), stretched, atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "leading", "trailing"),
    [
        (1, [1], [999]),
        (2, [501, 1], [999, 499]),
        (4, [751, 501, 251, 1], [999, 749, 499, 249]),
    ],
)
def test_timesteps_are_those_of_the_paper(small, steps, leading, trailing):
    """ArXiv 2409.11355, table A-1, which counts trailing ones from 1."""
    for spacing, expected in (("leading", leading), ("trailing", trailing)):
        baseline = Baseline(open_checkpoint(small), Sampling(steps=steps, spacing=spacing))
        assert baseline._timesteps == expected
        assert f"{spacing} spacing, t = {expected[0]}" in baseline.describe()


def test_the_flaw_is_said(tmp_path):
    folder = write_small(tmp_path / "c", scheduler={"timestep_spacing": "leading"})
    checkpoint = open_checkpoint(folder)
    (note,) = Baseline(checkpoint, Sampling(steps=1)).notes
    assert note.startswith("one step with leading spacing is at t = 1,")
    assert Baseline(checkpoint, Sampling(steps=2)).notes == []
    assert Baseline(checkpoint, Sampling(steps=1, spacing="trailing")).notes == []


def test_the_checkpoints_own_steps(tmp_path):
    folder = write_small(tmp_path / "c", index={"default_denoising_steps": 4})
    assert (
        "4 steps (trailing spacing, t = 999 to 249)" in Baseline(open_checkpoint(folder)).describe()
    )
    edit_json(folder / "model_index.json", default_denoising_steps=None)
    with pytest.raises(UsageError, match="has no default_denoising_steps; give `steps`"):
        Baseline(open_checkpoint(folder))


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_folder_of_stable_diffusion_runs_in_marigolds_pipeline(tmp_path, frame, task):
    """As E2E-FT's trainings save it: another pipeline's name, DDPM's scheduler, no steps, more parts."""
    marigold = write_small(tmp_path / "m", task)
    saved = shutil.copytree(marigold, tmp_path / "s")
    parts = {name: [None, None] for name in ("safety_checker", "feature_extractor")}
    for key in ("prediction_type", "default_denoising_steps", "default_processing_resolution"):
        parts[key] = None
    edit_json(
        saved / "model_index.json",
        _class_name="StableDiffusionPipeline",
        scheduler=["diffusers", "DDPMScheduler"],
        requires_safety_checker=False,
        scale_invariant=None,
        shift_invariant=None,
        use_full_z_range=None,
        **parts,
    )
    edit_json(saved / "scheduler" / "scheduler_config.json", _class_name="DDPMScheduler")
    baseline = Baseline(open_checkpoint(saved, family="e2e-ft", task=task), resolution=0)
    assert "DDIMScheduler, 1 step (trailing spacing, t = 999)" in baseline.describe()
    expected = Baseline(open_checkpoint(marigold), resolution=0)(frame)
    sign = 1 if task == "depth" else np.float32([-1, 1, 1])
    np.testing.assert_array_equal(baseline(frame), expected * sign)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"steps": 0}, "`steps=0` is out of range; give 1 to 1000"),
        ({"steps": 1001}, "`steps=1001` is out of range"),
        ({"ensemble": 0}, "`ensemble=0` is out of range"),
        ({"seed": -1}, "`seed=-1` is out of range"),
        ({"spacing": "linspace"}, "unknown spacing 'linspace'; it is leading or trailing"),
        # diffusers rounds its way to a step more, at t = -1; and past the last t
        ({"steps": 61, "spacing": "trailing"}, "puts 62 steps at t = 999 to -1"),
        ({"steps": 1000, "spacing": "leading"}, "puts 1000 steps at t = 1000 to 1, outside"),
    ],
)
def test_settings_that_cannot_be(small, named, said):
    with pytest.raises(UsageError, match=said):
        Baseline(open_checkpoint(small), Sampling(**named))


def test_schedulers_with_fewer_steps(tmp_path):
    folder = write_small(tmp_path / "c", scheduler={"num_train_timesteps": 100})
    with pytest.raises(UsageError, match="`steps=101`"):
        Baseline(open_checkpoint(folder), Sampling(steps=101))


def test_a_network_without_a_noise_latent_has_no_pipeline(tmp_path):
    folder = write_small(tmp_path / "rgb", unet={"in_channels": 4})
    with pytest.raises(UsageError, match="takes the picture's alone"):
        Baseline(open_checkpoint(folder))


def test_ensembles_of_depth_need_scipy(small, small_normals, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        UnavailableError, match=r"'scipy' is not installed: pip install .*baselines"
    ):
        Baseline(open_checkpoint(small), Sampling(ensemble=3))
    Baseline(open_checkpoint(small), Sampling(ensemble=1))
    Baseline(open_checkpoint(small_normals), Sampling(ensemble=3))


def test_the_strides_of_the_tests_checkpoint():
    """The noise above is of 48x64 pixels."""
    assert (48 // STRIDE, 64 // STRIDE) == (24, 32)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_lcm_in_one_to_four_steps(tmp_path, frame, task):
    """Between its steps noise is added again, from the same generator."""
    folder = write_lcm(tmp_path / "c", task)
    checkpoint = open_checkpoint(folder)
    pipeline = CLASSES[task].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    timesteps = {1: "1 step (t = 999)", 2: "2 steps (t = 999 to 499)", 4: "(t = 999 to 259)"}
    for steps, told in timesteps.items():
        baseline = Baseline(checkpoint, Sampling(steps=steps, seed=2), resolution=0, device="cpu")
        assert f"with LCMScheduler, {told}" in baseline.describe() or told in baseline.describe()
        assert not baseline.notes
        assert baseline.settings["spacing"] is None
        by_hand = pipeline(
            as_tensor(frame),
            num_inference_steps=steps,
            processing_resolution=0,
            generator=torch.Generator().manual_seed(2),
        ).prediction[0]
        expected = by_hand[..., 0] if task == "depth" else by_hand
        np.testing.assert_allclose(baseline(frame), expected, atol=1e-6)
    assert Baseline(checkpoint).settings["steps"] == 4
    with pytest.raises(UsageError, match=r'`spacing="leading"` is for DDIM schedulers'):
        Baseline(checkpoint, Sampling(spacing="leading"))
    with pytest.raises(UsageError, match="`steps=51`"):
        Baseline(checkpoint, Sampling(steps=51))
