"""The pipeline that the peer and the baselines share: sizes, errors, and that it is quiet."""

import logging

import numpy as np
import pytest
import torch

from e2e_deploy.baselines.pipeline import DiffusersPipeline
from e2e_deploy.errors import CheckpointError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from tests.peers import our_results
from tests.small_checkpoint import edit_json, write_small


def from_zeros(pipeline, frame, resolution):
    """One step, from no noise."""
    seen_hw = pipeline.processing_hw(frame.shape[:2], resolution)
    latents = torch.zeros(1, 4, *(side // 2 for side in seen_hw))
    return pipeline(frame[None], steps=1, resolution=resolution, latents=latents)[0]


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize("resolution", [44, 45, 71])
def test_every_resolution_is_taken(tmp_path, rng, task, resolution):
    """Diffusers refuses those that are no multiple of the VAE's stride, as the protocol's 756 of ETH3D is none of 8."""
    folder = write_small(tmp_path / "c", task, scheduler={"set_alpha_to_one": True})
    frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    found = from_zeros(DiffusersPipeline(open_checkpoint(folder)), frame, resolution)
    (expected,) = our_results(folder, frame, resolution=resolution)
    # where unit vectors nearly cancel, making them unit length again multiplies rounding
    np.testing.assert_allclose(found, expected, atol=2e-5 if task == "depth" else 5e-4)


def test_sizes_that_cannot_be(small):
    pipeline = DiffusersPipeline(open_checkpoint(small))
    frame = np.zeros((1, 16, 512, 3), np.uint8)
    with pytest.raises(UsageError, match="too narrow"):
        pipeline(frame, steps=1, resolution=8)


def test_a_pipeline_that_fails_is_a_sentence(small, monkeypatch):
    pipeline = DiffusersPipeline(open_checkpoint(small))
    frame = np.zeros((1, 48, 64, 3), np.uint8)
    with pytest.raises(E2EDeployError, match="diffusers' pipeline fails: .*latents"):
        pipeline(frame, steps=1, resolution=0, latents=torch.zeros(1, 4, 3, 3))

    def no_memory(*given, **named):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(type(pipeline.pipeline), "__call__", no_memory)
    with pytest.raises(UnavailableError, match="needs more memory than is free here"):
        pipeline(frame, steps=1, resolution=0)


def test_it_loads_and_runs_without_a_word(small, capfd):
    said = []  # its handler writes to the stderr of the moment when it was imported
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        pipeline = DiffusersPipeline(open_checkpoint(small), spacing="leading")
        assert pipeline.spacing == "leading"
        pipeline(np.zeros((2, 48, 64, 3), np.uint8), steps=2, resolution=0, ensemble_size=2)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("steps", ["four", 0, 1e9, True])
def test_steps_of_a_checkpoint_are_a_number(tmp_path, steps):
    folder = write_small(tmp_path / "c")
    edit_json(folder / "model_index.json", default_denoising_steps=steps)
    with pytest.raises(CheckpointError, match="default_denoising_steps"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "parts",
    [
        {"unet": ["made_up_module", "Network"]},
        {"unet": ["transformers", "CLIPVisionModel"], "tokenizer": ["transformers", "T5Tokenizer"]},
        {"vae": 5, "scheduler": ["diffusers", "EulerDiscreteScheduler"]},
    ],
)
def test_modules_that_a_model_index_names_are_not_imported(
    tmp_path, small, monkeypatch, capfd, parts
):
    """Nor do they change what is loaded: a module of that name may lie in the working directory."""
    folder = write_small(tmp_path / "c")
    (tmp_path / "made_up_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit_json(folder / "model_index.json", **parts)
    frame = np.full((48, 64, 3), 90, np.uint8)
    found, expected = (
        from_zeros(DiffusersPipeline(open_checkpoint(each)), frame, 0) for each in (folder, small)
    )
    np.testing.assert_array_equal(found, expected)
    assert capfd.readouterr() == ("", "")
