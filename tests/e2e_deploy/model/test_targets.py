"""Marigold-IID in one step, beside diffusers' pipeline; what model_index.json may say of its targets."""

import copy

import numpy as np
import pytest
import torch
from diffusers import MarigoldIntrinsicsPipeline

from e2e_deploy.errors import CheckpointError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.targets import read_targets
from tests.family_checkpoints.marigold_iid import TARGETS, write_iid
from tests.peers import assert_equal_to_its_pipeline

OUTPUTS = {
    "appearance": ("albedo", "material"),
    "lighting": ("linear-albedo", "shading", "residual"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("iid")
    return {task: write_iid(root / task, task) for task in OUTPUTS}


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("from_noise", [False, True])
def test_one_step_is_the_pipelines(folders, frame, task, from_noise):
    shape = (1, 4 * len(OUTPUTS[task]), 24, 32)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    latents = noise if from_noise else None
    assert_equal_to_its_pipeline(
        MarigoldIntrinsicsPipeline, folders[task], frame, latents=latents, atol=1e-5
    )


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_configs_tell_task_and_kinds(folders, task):
    checkpoint = open_checkpoint(folders[task])
    identity = checkpoint.identity
    assert (identity.family.name, identity.task) == ("marigold-iid", task)
    assert identity.outputs == OUTPUTS[task]
    assert tuple(kind.name for kind in load_model(checkpoint).kinds) == OUTPUTS[task]


@pytest.mark.parametrize("task", OUTPUTS)
def test_specialised_is_plain_in_float64(folders, task):
    model = load_model(open_checkpoint(folders[task])).double()
    rgb = torch.rand((2, 3, 32, 48), dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        expected = model(rgb)
    special, _ = specialise(copy.deepcopy(model))
    with torch.inference_mode():
        torch.testing.assert_close(special(rgb), expected, rtol=0, atol=1e-9)


def test_an_albedo_is_what_its_space_says():
    srgb = copy.deepcopy(TARGETS["lighting"])
    del srgb["albedo"]  # diffusers' default is sRGB
    found = read_targets({"target_properties": srgb})
    assert found == ("lighting", ("albedo", "shading", "residual"))


@pytest.mark.parametrize(
    ("properties", "match"),
    [
        (None, "no `target_properties`"),
        ([], "no `target_properties`"),
        ({"target_names": "albedo"}, "no `target_properties`"),
        ({"target_names": []}, "names the targets ; expected albedo and material"),
        ({"target_names": ["albedo", 7]}, "names the targets albedo, 7"),
        ({"target_names": ["albedo", "albedo"]}, "expected albedo and material"),
        ({"target_names": ["albedo", "material"], "material": {}}, "expected albedo and material"),
        (
            {
                "target_names": ["albedo", "material"],
                "material": {"prediction_space": "stack", "sub_target_names": ["metallicity"]},
            },
            "expected albedo and material",
        ),
        (
            TARGETS["lighting"] | {"target_names": ["shading", "albedo", "residual"]},
            "targets shading, albedo, residual",
        ),
        (TARGETS["lighting"] | {"shading": {"prediction_space": "srgb"}}, "expected albedo"),
    ],
)
def test_other_targets_are_refused(properties, match):
    with pytest.raises(CheckpointError, match=match):
        read_targets({"target_properties": properties})


def test_channels_that_do_not_fit_the_targets(tmp_path):
    folder = write_iid(tmp_path / "c", unet={"in_channels": 8, "out_channels": 4})
    with pytest.raises(CheckpointError, match=r"expected 12 \(rgb latent and noise\) in, 8 out"):
        open_checkpoint(folder)


def test_a_task_that_the_targets_contradict(folders):
    with pytest.raises(CheckpointError, match="predicts appearance .* task named is lighting"):
        open_checkpoint(folders["appearance"], task="lighting")
