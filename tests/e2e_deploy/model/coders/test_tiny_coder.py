"""Checkpoints whose VAE is an AutoencoderTiny: as diffusers runs them, and checked as strictly as others."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, MarigoldDepthPipeline, MarigoldNormalsPipeline
from torch.nn import functional

from e2e_deploy.errors import CheckpointError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from tests.peers import assert_equal_to_its_pipeline, our_results, pipeline_results
from tests.small_checkpoint import edit_json, edit_weights, tiny_coder, write_small

ROUNDING = 1e-5
ALPHA_TO_ONE = {"set_alpha_to_one": True}  # so that the last DDIM step of diffusers is x0 itself
KEY = "decoder.layers.2.conv.0.weight"


@pytest.fixture
def frame(rng):
    ramp = np.linspace(0, 200, 64)[None, :, None] * np.linspace(0.3, 1, 48)[:, None, None]
    return (ramp + rng.uniform(0, 50, (48, 64, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("turbo") / "c", scheduler=ALPHA_TO_ONE, tiny={})


@pytest.fixture
def turbo_copy(turbo, tmp_path):
    return shutil.copytree(turbo, tmp_path / "turbo")


@pytest.mark.parametrize(
    ("task", "pipeline", "tiny"),
    [
        ("depth", MarigoldDepthPipeline, {}),
        ("depth", MarigoldDepthPipeline, {"out_channels": 1, "scaling_factor": 0.7}),
        ("normals", MarigoldNormalsPipeline, {"act_fn": "silu"}),
    ],
)
def test_it_is_diffusers_pipeline(tmp_path, frame, task, pipeline, tiny):
    folder = write_small(tmp_path / "c", task, scheduler=ALPHA_TO_ONE, tiny=tiny)
    assert_equal_to_its_pipeline(pipeline, folder, frame, atol=ROUNDING)
    # in single precision, as users run both
    model = load_model(open_checkpoint(folder))
    vae = AutoencoderTiny.from_pretrained(folder / "vae")
    rgb = torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        z, theirs = model.encode(rgb), vae.encode(rgb).latents * vae.config.scaling_factor
        torch.testing.assert_close(z, theirs, atol=ROUNDING, rtol=0)
        image = vae.decode(z / vae.config.scaling_factor).sample
        torch.testing.assert_close(model.decode(z), image, atol=ROUNDING, rtol=0)


def test_three_levels_are_a_stride_of_four(tmp_path, frame):
    levels = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (4, 4, 4))
    blocks = {"num_encoder_blocks": (0, 1, 2), "num_decoder_blocks": (2, 1, 0)}
    folder = write_small(tmp_path / "c", scheduler=ALPHA_TO_ONE, tiny=levels | blocks)
    assert load_model(open_checkpoint(folder)).stride == 4
    odd = frame[:-3, :-5]
    expected = pipeline_results(MarigoldDepthPipeline, folder, odd)[0]
    np.testing.assert_allclose(our_results(folder, odd)[0], expected, atol=ROUNDING)


@pytest.mark.parametrize("hw", [(47, 63), (48, 63), (45, 64)])
def test_what_is_over_is_dropped_as_a_kl_drops_it(tmp_path, frame, hw):
    """E2E-FT's sizes are not padded: the result of what is encoded is stretched over the frame."""
    named = {"_class_name": "MarigoldPipeline"}
    folder = write_small(tmp_path / "tiny", index=named, tiny={})
    own = load_model(open_checkpoint(write_small(tmp_path / "kl", index=named)))
    model, cut = load_model(open_checkpoint(folder)).double(), frame[: hw[0], : hw[1]]
    rgb = torch.from_numpy(cut).permute(2, 0, 1)[None].double() / 127.5 - 1
    with torch.inference_mode():
        assert model.encode(rgb).shape == own.encode(rgb.float()).shape
        result = model(rgb[..., : hw[0] // 2 * 2, : hw[1] // 2 * 2])
        special, _ = specialise(load_model(open_checkpoint(folder)).double(), sizes_hw=[hw])
        torch.testing.assert_close(special(rgb), result, atol=1e-9, rtol=0)
    expected = functional.interpolate(result, hw, mode="bilinear", antialias=True)[0, 0]
    np.testing.assert_allclose(our_results(folder, cut)[0], expected.numpy(), atol=ROUNDING)


def refused(folder, **named):
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(folder, **named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_coder_of_another_latent_space(tmp_path, turbo_copy):
    sixteen = write_small(tmp_path / "sixteen", tiny={"latent_channels": 16})
    assert "8 input and 4 output channels; expected 32" in refused(sixteen)
    edit_json(turbo_copy / "vae" / "config.json", shift_factor=0.1159)
    assert "shifts its latents by 0.1159" in refused(turbo_copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"_class_name": "AutoencoderDC"},
            "_class_name is 'AutoencoderDC'; expected 'AutoencoderKL'",
        ),
        ({"_class_name": "AutoencoderKL"}, "vae"),
        ({"out_channels": 2}, "decodes to 2 channels; expected 3 or 1"),
        ({"out_channels": 1}, r"has shape [3, 8, 3, 3], config.json asks for [1, 8, 3, 3]"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"upsampling_scaling_factor": 3}, "upsampling_scaling_factor is 3"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
        ({"encoder_block_out_channels": [8, 16]}, "has shape [8, 8, 3, 3], config.json asks"),
        ({"encoder_block_out_channels": [8, 8, 8]}, "over 3 levels and grows them over 2"),
        ({"num_encoder_blocks": [1, 2]}, "lacks 8 weights its config.json asks for"),
        ({"num_decoder_blocks": [1, 0]}, "the first is 'decoder.layers.5.weight'"),
        ({"num_decoder_blocks": [64] * 64}, "asks for up to 4160 layers"),
        ({"num_decoder_blocks": [1, 1, 1]}, "describes no AutoencoderTiny"),
        ({"act_fn": "no such"}, "describes no AutoencoderTiny"),
        ({"upsample_fn": "trilinear"}, "describes no AutoencoderTiny"),
    ],
)
def test_a_config_that_does_not_fit(turbo_copy, changes, says):
    edit_json(turbo_copy / "vae" / "config.json", **changes)
    assert says in refused(turbo_copy)


def test_one_channel_is_for_results_of_one(tmp_path):
    folder = write_small(tmp_path / "c", "normals", tiny={"out_channels": 1})
    assert "decodes to 1 channel; expected 3 for normals" in refused(folder)


def test_weights_that_do_not_fit(turbo_copy):
    edit_weights(turbo_copy, "vae", lambda w: {k: v for k, v in w.items() if k != KEY})
    assert f"the first is '{KEY}'" in refused(turbo_copy)
    edit_weights(turbo_copy, "vae", lambda w: w | {KEY: torch.full((8, 8, 3, 3), torch.nan)})
    assert "NaN" in refused(turbo_copy)


def test_a_pickle_is_refused(turbo_copy):
    file = turbo_copy / "vae" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    torch.save(tiny_coder().state_dict(), file.with_suffix(".bin"))
    assert "is a pickle" in refused(turbo_copy)
