import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.conv_in import widen_conv_in, zero_second_half
from e2e_deploy.train.start import load_start
from tests.family_checkpoints.depthmaster import write_depthmaster
from tests.family_checkpoints.lotus import write_lotus
from tests.family_checkpoints.marigold_iid import write_iid
from tests.small_checkpoint import tiny_coder
from tests.train.small_runs import small_config, write_start


@pytest.fixture
def rgb():
    return torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def quieten_decoder(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"] *= 0.1
    save_file(tensors, file)


def test_widened_conv_in_halves_weights_and_bias(tmp_path):
    model = load_model(open_checkpoint(write_start(tmp_path / "sd", in_channels=4)))
    old = model.unet.conv_in
    weight, bias = old.weight.clone(), old.bias.clone()
    latent = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    before = old(latent)
    widen_conv_in(model.unet)
    new = model.unet.conv_in
    assert model.unet.config.in_channels == 8
    assert torch.equal(new.weight, torch.cat([weight, weight], dim=1) / 2)
    assert torch.equal(new.bias, bias / 2)
    # The latent twice gives the old weights' answer with half the bias; zeros give half of everything.
    twice = new(torch.cat([latent, latent], dim=1))
    half_bias = bias[None, :, None, None] / 2
    torch.testing.assert_close(twice, before - half_bias, atol=1e-5, rtol=1e-5)
    zeros = new(torch.cat([latent, torch.zeros_like(latent)], dim=1))
    torch.testing.assert_close(zeros, before / 2, atol=1e-5, rtol=1e-5)


def test_stable_diffusion_start_is_widened(tmp_path, rgb):
    write_start(tmp_path / "start", in_channels=4)
    index = tmp_path / "start" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (tmp_path / "start" / "e2e_deploy.json").unlink()  # others write none
    start = load_start(small_config(tmp_path))
    assert "family marigold: the default" in start.checkpoint.describe()
    assert start.model.in_channels == 8
    assert start.changes == ("conv_in widened from 4 to 8 channels and halved",)
    assert start.model(rgb).shape == (1, 1, 32, 48)


def test_four_channel_mode_keeps_the_unet(tmp_path, rgb):
    write_start(tmp_path / "start", in_channels=4)
    start = load_start(small_config(tmp_path, model={"noise": "none"}))
    assert start.model.in_channels == 4
    assert start.changes == ()
    assert start.model(rgb).isfinite().all()


def test_a_second_half_with_zero_weights_is_cut(tmp_path, rgb):
    narrow = load_model(open_checkpoint(write_start(tmp_path / "start", in_channels=4)))
    expected = narrow(rgb)
    with zero_second_half(narrow.unet):
        assert narrow.unet.config.in_channels == 8
        narrow.unet.save_pretrained(tmp_path / "start" / "unet")
    assert narrow.unet.config.in_channels == 4
    assert load_start(small_config(tmp_path)).model.in_channels == 8
    start = load_start(small_config(tmp_path, model={"noise": "none"}))
    assert start.model.in_channels == 4
    assert start.changes == ("conv_in cut from 8 to 4 channels: the others had zero weights",)
    assert torch.equal(start.model.unet.conv_in.weight, narrow.unet.conv_in.weight)
    torch.testing.assert_close(start.model(rgb), expected, atol=1e-5, rtol=1e-4)


def test_eight_channels_cannot_run_without_noise_latent(tmp_path):
    with pytest.raises(UsageError, match="8 input channels"):
        load_start(small_config(tmp_path, model={"noise": "none"}))


def test_the_context_has_two_tokens(tmp_path):
    assert load_start(small_config(tmp_path)).model.context_1LC.shape == (1, 2, 64)


@pytest.mark.parametrize("is_tiny", [False, True])
@pytest.mark.parametrize("full_z_range", [True, False])
def test_e2e_ft_normals_are_turned_to_our_axes(tmp_path, rgb, full_z_range, is_tiny):
    folder = write_start(tmp_path / "start", "normals")
    (folder / "e2e_deploy.json").unlink()
    if is_tiny:
        coder = tiny_coder()
        coder.decoder.layers[-1].weight.data *= 0.1
        coder.save_pretrained(folder / "vae")
    else:
        quieten_decoder(folder)  # inside [-1, 1] the families' clipping makes no difference
    edit(folder / "model_index.json", use_full_z_range=full_z_range)
    original = load_model(open_checkpoint(folder, family="e2e-ft"))
    original.full_z_range = full_z_range
    edit(
        folder / "model_index.json", _class_name="MarigoldPipeline"
    )  # now nothing tells the family
    start = load_start(small_config(tmp_path, task="normals"))
    assert start.checkpoint.identity.family.name == "e2e-ft"
    with torch.no_grad():
        np.testing.assert_allclose(start.model(rgb), original(rgb), atol=2e-5)
    assert len(start.changes) == (1 if full_z_range else 2)


def test_depth_weights_may_start_normals(tmp_path, rgb):
    write_start(tmp_path / "start", "depth")
    start = load_start(small_config(tmp_path, task="normals"))
    assert start.model.task == "normals"
    assert start.model(rgb).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(
    ("write", "name"), [(write_depthmaster, "DepthMaster"), (write_lotus, "Lotus")]
)
def test_a_unet_with_parts_of_its_own_starts_nothing(tmp_path, write, name):
    folder = write(tmp_path / "start")
    family = {"family": "lotus"} if name == "Lotus" else {}
    config = small_config(tmp_path, start={"checkpoint": str(folder)} | family)
    with pytest.raises(UsageError, match=f"is {name}, whose UNet has a part that .* would lose"):
        load_start(config)


def test_a_unet_of_several_results_starts_nothing(tmp_path):
    write_iid(tmp_path / "start")
    with pytest.raises(UsageError, match="a latent for each of several results"):
        load_start(small_config(tmp_path))


@pytest.mark.parametrize("noise", ["zeros", "none"])
def test_a_start_with_genpercepts_schedule_stays_genpercept(tmp_path, noise):
    """A Marigold model with that schedule could not be opened."""
    write_start(tmp_path / "start", in_channels=4)
    scheduler = tmp_path / "start" / "scheduler" / "scheduler_config.json"
    edit(scheduler, beta_start=1.0, beta_end=1.0)
    edit(tmp_path / "start" / "e2e_deploy.json", family="genpercept")
    with pytest.raises(UsageError, match=r"GenPercept's noise schedule.*model\.family"):
        load_start(small_config(tmp_path, model={"noise": noise}))
    model = {"noise": "none", "family": "genpercept"}
    assert load_start(small_config(tmp_path, model=model)).model.timestep == 1


def test_unfinished_run_is_refused(tmp_path):
    (tmp_path / "earlier" / "checkpoints").mkdir(parents=True)
    config = small_config(tmp_path, start={"checkpoint": str(tmp_path / "earlier")})
    with pytest.raises(CheckpointError, match="not finished"):
        load_start(config)


def test_e2e_tiny_is_random_by_seed(tmp_path):
    def weight(seed):
        run = {"out": str(tmp_path / f"out{seed}"), "seed": seed}
        config = small_config(tmp_path, start={"checkpoint": "random"}, run=run)
        return load_start(config).model.unet.conv_in.weight

    assert not torch.equal(weight(0), weight(1))
