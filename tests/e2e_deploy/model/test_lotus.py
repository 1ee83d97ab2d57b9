"""Lotus beside its published composition of diffusers' and transformers' own modules, on the same random weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from tests.family_checkpoints.lotus import CLASSES, write_lotus
from tests.family_checkpoints.sd2 import write_sd2
from tests.peers import our_results
from tests.small_checkpoint import edit_json


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lotus")
    return {variant: write_lotus(root / variant, variant, contrast=2.0) for variant in "dg"}


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (64, 104, 3), dtype=np.uint8)


def published(folder, frame, *, resolution=0, noise=None, sampled=None):
    """Decoded images [3, H, W] in [0, 1] as pipeline.py makes them, float64, sizes as eval.py has them.

    The latent is the mean, or with ``sampled``, a generator, a sample as published; the noise of the G variant is
    given, or zeros.
    """
    vae, unet = (
        network.from_pretrained(folder / part).double()
        for part, network in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel))
    )
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")("", return_tensors="pt").input_ids
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
    rgb = torch.from_numpy(frame).permute(2, 0, 1)[None].double() / 127.5 - 1.0
    size = rgb.shape[2:]
    if resolution:
        share = min(resolution / size[0], resolution / size[1])
        smaller = [int(side * share) for side in size]
        rgb = F.interpolate(rgb, smaller, mode="bilinear", antialias=True)
    with torch.no_grad():
        found = vae.encode(rgb).latent_dist
        latent = found.mean if sampled is None else found.sample(sampled)
        latent = latent * vae.config.scaling_factor
        if unet.config.in_channels == 8:
            second = torch.zeros_like(latent) if noise is None else noise
            latent = torch.cat([latent, second], dim=1)
        task = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        labels = torch.cat([task.sin(), task.cos()], dim=-1)
        x0 = unet(latent, 999, encoder(tokens).last_hidden_state, class_labels=labels).sample
        image = vae.decode(x0 / vae.config.scaling_factor).sample
    image = VaeImageProcessor().postprocess(image, output_type="pt")
    return F.interpolate(image, size, mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize(
    ("variant", "task", "resolution"),
    [("d", "depth", 80), ("d", "disparity", 0), ("g", "depth", 0)],
)
def test_maps_are_the_published_ones(folders, frame, variant, task, resolution):
    expected = published(folders[variant], frame, resolution=resolution).mean(dim=0)
    (found,) = our_results(folders[variant], frame, resolution=resolution, task=task)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["d", "g"])
def test_normals_are_the_published_ones_with_x_to_the_right(folders, frame, variant):
    theirs = published(folders[variant], frame) * 2.0 - 1.0
    theirs = F.normalize(theirs, dim=0) * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    (found,) = our_results(folders[variant], frame, task="normals")
    np.testing.assert_allclose(found, theirs.permute(1, 2, 0), atol=1e-5, rtol=0)


def test_with_the_published_noise_the_g_variant_is_the_published_one(folders, frame):
    noise = torch.randn((1, 4, 8, 13), generator=torch.Generator().manual_seed(1)).double()
    expected = published(folders["g"], frame, noise=noise).mean(dim=0)
    (found,) = our_results(folders["g"], frame, task="depth", latents=noise)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    zeros = published(folders["g"], frame).mean(dim=0)
    assert (zeros - expected).abs().mean() > 1e-3  # the noise matters to this network


def test_the_published_latent_is_a_sample_around_ours(folders, frame):
    """What is different from the published pipeline on purpose: its result changes from run to run, around ours."""
    ours = published(folders["d"], frame)
    each = [
        published(folders["d"], frame, sampled=torch.Generator().manual_seed(seed))
        for seed in range(2)
    ]
    assert (each[0] - each[1]).abs().max() > 1e-3
    assert torch.equal(ours, published(folders["d"], frame))


@pytest.mark.parametrize(("variant", "task"), [("d", "disparity"), ("g", "normals")])
def test_specialised_it_is_the_same(folders, variant, task):
    model = load_model(open_checkpoint(folders[variant], task=task)).double()
    rgb = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    with torch.no_grad():
        expected = model(rgb)
        special, _ = specialise(model)
        found = special(rgb)
    assert special.unet.class_embedding is None
    assert special.zero_channels == 0
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_the_mean_of_clipped_channels_is_not_the_clipped_mean(folders, frame):
    """Both are in use; where channels leave the range, they differ."""
    image = torch.tensor([3.0, -0.5, 0.0]).view(1, 3, 1, 1)
    model = load_model(open_checkpoint(folders["d"], task="depth"))
    assert float(model.read(image)) == pytest.approx((0.5 / 3 + 1) / 2)
    assert float(published(folders["d"], frame).max()) > 1 - 1e-9  # the pictures above do leave it


def test_the_task_must_be_named(folders):
    with pytest.raises(
        CheckpointError,
        match="Lotus checkpoints do not tell what they do; name it with `task`: depth, disparity, normals",
    ):
        open_checkpoint(folders["d"])
    with pytest.raises(UsageError, match="Lotus checkpoints do not do matting"):
        open_checkpoint(folders["d"], task="matting")
    kinds = {
        task: open_checkpoint(folders["g"], task=task).identity.outputs
        for task in ("depth", "disparity", "normals")
    }
    assert kinds == {"depth": ("depth",), "disparity": ("disparity",), "normals": ("normals",)}


@pytest.mark.parametrize("pipeline", ["LotusDPipeline", "StableDiffusionPipeline", "SomePipeline"])
def test_it_is_known_by_its_classes(tmp_path, pipeline):
    folder = write_lotus(tmp_path / "c", index={"_class_name": pipeline})
    assert open_checkpoint(folder, task="depth").identity.family.name == "lotus"


@pytest.mark.parametrize(
    ("unet", "found"),
    [({}, "no class embedding"), (CLASSES | {"projection_class_embeddings_input_dim": 7}, "of 7")],
)
def test_another_class_embedding_is_refused(tmp_path, unet, found):
    folder = write_sd2(tmp_path / "c", unet=unet)
    checkpoint = open_checkpoint(folder, family="lotus", task="depth")
    with pytest.raises(CheckpointError, match=f"{found}.*; Lotus has one of 4 numbers"):
        load_model(checkpoint)


def test_it_needs_no_scheduler(folders, tmp_path):
    folder = write_lotus(tmp_path / "c")
    before = open_checkpoint(folder, task="depth").sha256()
    (folder / "scheduler" / "scheduler_config.json").unlink()
    without = open_checkpoint(folder, task="depth")
    assert not without.scheduler
    assert without.sha256() != before
    edit_json(folder / "model_index.json", _class_name="MarigoldDepthPipeline")
    with pytest.raises(CheckpointError, match="the family named is marigold"):
        open_checkpoint(folder, family="marigold")
