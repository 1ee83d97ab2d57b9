"""DepthMaster beside its published composition: diffusers' own UNet, and its block with torch.fft."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.export.subject import plan_subjects
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from tests.family_checkpoints.depthmaster import write_depthmaster
from tests.family_checkpoints.sd2 import write_sd2
from tests.peers import our_results
from tests.small_checkpoint import edit_json, edit_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_depthmaster(tmp_path_factory.mktemp("depthmaster") / "c", contrast=0.5)


def published_block(weights, x):
    """unet_2d_blocks.py's BlockFE."""

    def convolve(name, x):
        weight, bias = weights[f"fftblock.{name}.weight"], weights[f"fftblock.{name}.bias"]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    x = F.group_norm(x, 8, weights["fftblock.norm.weight"], weights["fftblock.norm.bias"])
    waves = F.silu(convolve("conv_f1", x))
    bins = torch.fft.rfft2(waves, norm="ortho")
    bins = torch.polar(
        F.silu(convolve("conv_f2", bins.abs())), F.silu(convolve("conv_f4", bins.angle()))
    )
    changed = torch.fft.irfft2(bins, s=waves.shape[2:], norm="ortho")
    of_waves = convolve("conv_f3", changed + waves)
    of_pixels = convolve("conv_s2", F.silu(convolve("conv_s1", x))) + x
    return convolve("fuse", torch.cat([of_pixels, of_waves], dim=1))


def published(folder, frame, *, resolution=0):
    """[H, W] as depthmaster_pipeline.py makes it, float64, without rounding the resized frame to bytes."""
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    weights = {name: weight.double() for name, weight in weights.items()}
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    unet = unet.double().eval()
    unet.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fftblock.")})
    unet.mid_block.register_forward_hook(lambda _m, _i, out: published_block(weights, out))
    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")("", return_tensors="pt").input_ids
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
    rgb = torch.from_numpy(frame).permute(2, 0, 1)[None].double()
    size = rgb.shape[2:]
    if resolution:
        share = min(resolution / size[0], resolution / size[1])
        smaller = [int(side * share) for side in size]
        rgb = F.interpolate(rgb, smaller, mode="bilinear", antialias=True)
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(rgb / 255.0 * 2.0 - 1.0))
        latent = moments.chunk(2, dim=1)[0] * 0.18215
        x0 = unet(latent, 1, encoder(tokens).last_hidden_state).sample
        image = vae.decoder(vae.post_quant_conv(x0 / 0.18215))
    depth = (image.mean(dim=1, keepdim=True).clip(-1.0, 1.0) + 1.0) / 2.0
    return F.interpolate(depth, size, mode="bilinear", antialias=True)[0, 0].clip(0, 1)


@pytest.mark.parametrize(
    ("size", "resolution"),
    # at the middle: 3 x 5 and 4 x 3 latent pixels
    [((150, 270), 0), ((300, 200), 256)],
)
def test_it_is_the_published_one(folder, rng, size, resolution):
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = published(folder, frame, resolution=resolution)
    (found,) = our_results(folder, frame, resolution=resolution)
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_specialised_it_is_the_same(folder):
    model = load_model(open_checkpoint(folder)).double()
    rgb = torch.rand((1, 3, 128, 192), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    with torch.no_grad():
        expected = model(rgb)
        special, _ = specialise(model)
        found = special(rgb)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_what_it_is(folder):
    identity = open_checkpoint(folder).identity
    assert (identity.family.name, identity.task) == ("depthmaster", "disparity")
    assert identity.outputs == ("sqrt-disparity",)
    assert "fftblock" in identity.reasons[0]
    with pytest.raises(UsageError, match="DepthMaster checkpoints do not do depth; they do disp"):
        open_checkpoint(folder, task="depth")


@pytest.mark.parametrize(
    "index", [{}, {"_class_name": "MarigoldPipeline"}, {"_class_name": "StableDiffusionPipeline"}]
)
def test_it_is_known_by_its_weights(tmp_path, index):
    """Its configs are a stock UNet's, and which pipeline saved it does not matter."""
    checkpoint = open_checkpoint(write_depthmaster(tmp_path / "c", index=index))
    assert checkpoint.identity.family.name == "depthmaster"
    with pytest.raises(CheckpointError, match="has a block fftblock, as depthmaster has"):
        open_checkpoint(tmp_path / "c", family="e2e-ft")


def test_without_its_block_it_is_none(tmp_path):
    """As the first stage of its training saves it."""
    folder = write_sd2(tmp_path / "c", index={"_class_name": "DepthMasterPipeline"})
    with pytest.raises(CheckpointError, match="lacks 16 weights .* is 'fftblock.norm.weight'"):
        load_model(open_checkpoint(folder))


def test_a_damaged_block_is_named(tmp_path):
    folder = write_depthmaster(tmp_path / "c")
    edit_weights(folder, "unet", lambda w: w | {"fftblock.fuse.weight": torch.zeros(32, 32, 1, 1)})
    with pytest.raises(CheckpointError, match=r"'fftblock.fuse.weight' has shape \[32, 32, 1, 1\]"):
        load_model(open_checkpoint(folder))
    edit_json(folder / "unet" / "config.json", block_out_channels=[8, 16, 32, 36])
    with pytest.raises(CheckpointError, match="describes no FourierUNet"):
        load_model(open_checkpoint(folder))


def test_its_graphs_have_a_size(folder):
    model = load_model(open_checkpoint(folder))
    with pytest.raises(UsageError, match="DepthMaster's network is made for one size"):
        plan_subjects([(256, 256)], model=model, resolution=0, kind="core", dynamic=True)
