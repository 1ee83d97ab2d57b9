"""StableNormal-turbo beside its published composition, put together from diffusers' and transformers' own modules."""

import copy
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.graph.passes import layers
from e2e_deploy.export.graph.precision import to_precision
from e2e_deploy.export.graph.specialise import PASSES, count_parameters, specialise
from e2e_deploy.export.graph.specialised_model import SpecialisedStableNormal
from e2e_deploy.export.subject import plan_subjects
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.networks.stablenormal import seeded_noise
from tests.export.random_models import random_rgb
from tests.family_checkpoints.stablenormal import write_stablenormal
from tests.peers import our_results
from tests.small_checkpoint import edit_json, edit_weights

V0, V1 = "stablenormal-turbo", "stablenormal-turbo-v1"
SIZE = (64, 64)
OWN = ("time embedding", "zero latent", "empty prompt", "features of noise", "latent scales")
"""Passes that do something else to StableNormal than to other models."""
RGB = random_rgb(2, 3, *SIZE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("stablenormal")
    versions = {V0: 0, V1: 1}
    return {name: write_stablenormal(root / name, version=v) for name, v in versions.items()}


def controlled(network, latent, context):
    """ControlNetVAEModel.forward in stock parts: no picture embedding, no 1x1 convolutions after the blocks."""

    class Zero(torch.nn.Module):
        def forward(self, _):
            return 0.0

    network.controlnet_cond_embedding = Zero()
    for blocks in (network.controlnet_down_blocks, [network.controlnet_mid_block]):
        for each in blocks:
            each.weight.data = torch.eye(len(each.weight)).double()[:, :, None, None]
            each.bias.data.zero_()
    return network(latent, 0, context, controlnet_cond=latent, return_dict=False)


def published(folder, frame, *, resolution=0, noise=None):
    """[H, W, 3] as YOSONormalsPipeline makes it with ``t_start`` 0 in float64, in its own axes; v1.5 without noise."""
    unet, controlnet, vae = (
        kind.from_pretrained(folder / part).double().eval()
        for kind, part in (
            (UNet2DConditionModel, "unet"),
            (ControlNetModel, "controlnet"),
            (AutoencoderKL, "vae"),
        )
    )
    rgb = torch.from_numpy(frame).permute(2, 0, 1)[None].double() / 255
    size = rgb.shape[2:]
    if resolution:
        smaller = [side * resolution // max(size) for side in size]
        rgb = F.interpolate(rgb, smaller, mode="bilinear", antialias=True)
    height, width = rgb.shape[2:]
    rgb = F.pad(rgb * 2 - 1, (0, -width % 8, 0, -height % 8), mode="replicate")
    context = torch.zeros(1, 257, unet.config.cross_attention_dim).double()
    if noise is not None:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
        context = encoder(ids).last_hidden_state
    with torch.no_grad():
        latent = vae.encode(rgb).latent_dist.mode() * 0.18215
        given = latent if noise is None else torch.from_numpy(noise)[None].double()
        kept, middle = controlled(controlnet, latent, context)
        out = unet(
            given,
            0,
            context,
            down_block_additional_residuals=kept,
            mid_block_additional_residual=middle,
        ).sample
        image = vae.decode(out / 0.18215, return_dict=False)[0]
    unit = F.normalize(image, dim=1, eps=1e-6)[:, :, :height, :width]
    if resolution:
        unit = F.interpolate(unit, size, mode="bilinear")
    return F.normalize(unit, dim=1, eps=1e-6)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("name", "size", "resolution", "seed"),
    [(V0, (50, 75), 0, "0"), (V0, (80, 120), 96, "11"), (V1, (50, 75), 0, None)],
)
def test_it_is_the_published_one(folders, rng, name, size, resolution, seed):
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    settings = noise = None
    if seed is not None:
        latent_hw = (7, 10) if not resolution else (8, 12)
        settings, noise = {"seed": seed}, seeded_noise(int(seed), (4, *latent_hw))
    expected = published(folders[name], frame, resolution=resolution, noise=noise)
    expected = expected * [-1, 1, 1]  # x to the left, as in DSINE's
    (found,) = our_results(
        folders[name], frame, resolution=resolution, family=name, settings=settings
    )
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_noise_is_of_its_seed_and_stays_what_it_is():
    noise = seeded_noise(0, (4, 60, 80))
    assert hashlib.sha256(noise.round(4).tobytes()).hexdigest().startswith("71c4c601")
    np.testing.assert_allclose(noise[0, 0, :2], [1.7640524, 0.4001572], rtol=1e-6)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert np.abs(noise - seeded_noise(1, (4, 60, 80))).mean() > 1


def loaded(folders, name, seed="0"):
    settings = {"seed": seed} if name == V0 else None
    return load_model(open_checkpoint(folders[name], family=name, settings=settings)).double()


def results(model, rgb=RGB):
    with torch.no_grad():
        return model(rgb)


def test_a_seed_changes_the_result_and_no_picture_of_a_batch_another(folders):
    expected = results(loaded(folders, V0))
    assert float((results(loaded(folders, V0, "1")) - expected).abs().mean()) > 1e-2
    alone = results(loaded(folders, V0), RGB[1:])
    torch.testing.assert_close(alone, expected[1:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [V0, V1])
def test_a_pass_alone_is_exact(folders, name):
    model = loaded(folders, name)
    expected = results(model)
    for step in PASSES:
        if step.name not in OWN:
            continue
        special = SpecialisedStableNormal(copy.deepcopy(model), [SIZE])
        with torch.no_grad():
            step.run(special)
        torch.testing.assert_close(results(special), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "order"), [(V0, 1), (V0, -1), (V1, 1)])
def test_passes_are_exact_together_in_either_order(folders, monkeypatch, name, order):
    monkeypatch.setattr(layers, "MIN_UPSAMPLE_CHANNELS", 1)
    model = loaded(folders, name, "5")
    expected = results(model)
    rgb = random_rgb(1, 3, 72, 64)  # 9 latent pixels: the UNet's first level is odd
    odd = results(model, rgb)
    special, _ = specialise(model, passes=PASSES[::order], sizes_hw=[SIZE, (72, 64)])
    torch.testing.assert_close(results(special), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(results(special, rgb), odd, atol=1e-9, rtol=0)


def test_half_of_the_unet_goes_where_it_sees_noise_alone(folders):
    model = loaded(folders, V0)
    half = sum(
        count_parameters(part)
        for part in (model.unet.conv_in, model.unet.down_blocks, model.unet.mid_block)
    )
    passes = [step for step in PASSES if step.name == "features of noise"]
    special, (report,) = specialise(model, passes=passes, sizes_hw=[SIZE], macs_hw=SIZE)
    assert half > 200_000
    assert report.parameters_before - report.parameters_after > 0.8 * half
    assert report.macs_after < report.macs_before
    with pytest.raises(UsageError, match="no features of noise for 4x4 latent pixels"):
        results(special, random_rgb(1, 3, 32, 32))


@pytest.mark.parametrize("name", [V0, V1])
@pytest.mark.parametrize("specialised", [True, False])
def test_half_precision_is_near(folders, name, specialised):
    model = loaded(folders, name).float()
    rgb = RGB.float()
    expected = results(model, rgb)
    if specialised:
        model, _ = specialise(model, sizes_hw=[SIZE])
    found = results(to_precision(model, "bf16"), rgb)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.04


def test_its_graphs_have_a_size_where_they_hold_noise(folders):
    given = {"resolution": 0, "kind": "core", "dynamic": True}
    with pytest.raises(UsageError, match="v1.5.'s network is made for one size"):
        plan_subjects([(256, 256)], model=loaded(folders, V0), **given)
    assert plan_subjects([(256, 256)], model=loaded(folders, V1), **given)


def test_what_it_is(folders):
    identity = open_checkpoint(folders[V1]).identity
    assert (identity.family.name, identity.task, identity.outputs) == (V1, "normals", ("normals",))
    assert identity.reasons[0].endswith("from a YOSONormalsPipeline without a text encoder")
    for name, folder in ((V0, folders[V0]), (V1, folders[V0])):  # the later ones may have both
        assert open_checkpoint(folder, family=name).identity.family.name == name
    with pytest.raises(UsageError, match="StableNormal-turbo .* checkpoints do not do depth"):
        open_checkpoint(folders[V1], task="depth")
    with pytest.raises(CheckpointError, match=f"as {V1} has, but the family named is {V0}"):
        open_checkpoint(folders[V1], family=V0)


@pytest.mark.parametrize("pipeline", ["YOSONormalsPipeline", "StableDiffusionControlNetPipeline"])
def test_what_two_families_look_like_must_be_named(tmp_path, pipeline):
    folder = write_stablenormal(tmp_path / "c", index={"_class_name": pipeline})
    with pytest.raises(CheckpointError, match=f"{V0} and {V1} have, .*; name it with `family`"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="but the family named is e2e-ft"):
        open_checkpoint(folder, family="e2e-ft")
    (folder / "e2e_deploy.json").write_text(json.dumps({"family": V0}))
    assert open_checkpoint(folder).identity.family.name == V0


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "a", "", "²", "9" * 5000])
def test_a_seed_is_a_whole_number(folders, seed):
    with pytest.raises(UsageError, match="`seed` is .*; expected a whole number from 0 to 42949"):
        open_checkpoint(folders[V0], family=V0, settings={"seed": seed})


def test_a_seed_has_its_place(folders):
    settings = open_checkpoint(folders[V0], family=V0, settings={"seed": "4294967295"}).settings
    assert settings == {"seed": "4294967295"}
    assert open_checkpoint(folders[V0], family=V0).settings == {"seed": "0"}
    with pytest.raises(UsageError, match="`seed` has no effect on StableNormal-turbo v1.5"):
        open_checkpoint(folders[V1], settings={"seed": "1"})


def test_its_digest_is_of_the_controlnet_too(folders, tmp_path):
    folder = shutil.copytree(folders[V1], tmp_path / "c")
    before = open_checkpoint(folder).sha256()
    edit_weights(folder, "controlnet", lambda w: w | {"conv_in.bias": w["conv_in.bias"] + 1})
    assert open_checkpoint(folder).sha256() != before


CHANGES = {
    "no weights": (
        lambda c: (c / "diffusion_pytorch_model.safetensors").unlink(),
        "controlnet",
    ),
    "no config": (lambda c: (c / "config.json").unlink(), "config.json is missing"),
    "a weight less": (
        lambda c: edit_weights(
            c.parent, "controlnet", lambda w: {k: w[k] for k in w if k != "conv_in.bias"}
        ),
        "lacks 1 weights .* is 'conv_in.bias'",
    ),
    "not finite": (
        lambda c: edit_weights(
            c.parent, "controlnet", lambda w: w | {"conv_in.bias": w["conv_in.bias"] / 0}
        ),
        "'conv_in.bias' holds . values that are NaN or infinite",
    ),
    "other channels": (
        lambda c: edit_json(c / "config.json", cross_attention_dim=24),
        "has shape",
    ),
    "many layers": (
        lambda c: edit_json(c / "config.json", conditioning_embedding_out_channels=[8] * 9999),
        "conditioning_embedding_out_channels",
    ),
    "means": (
        lambda c: edit_json(c / "config.json", global_pool_conditions=True),
        "describes no ControlNet: global_pool_conditions is true",
    ),
    "nonsense": (
        lambda c: edit_json(c / "config.json", down_block_types=["X"] * 4),
        "describes no ControlNet",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_controlnet_is_a_sentence(folders, tmp_path, change):
    folder = shutil.copytree(folders[V1], tmp_path / "c")
    alter, message = CHANGES[change]
    alter(folder / "controlnet")
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(open_checkpoint(folder))
    assert "\n" not in str(error.value)


def test_a_controlnet_of_another_unet_is_named(tmp_path):
    folder = write_stablenormal(tmp_path / "c", version=1, controlnet={"layers_per_block": 1})
    with pytest.raises(CheckpointError, match="layers_per_block = 1, the unet's has 2; they must"):
        load_model(open_checkpoint(folder))


def test_a_missing_controlnet_is_named(folders, tmp_path):
    folder = shutil.copytree(folders[V0], tmp_path / "c")
    shutil.rmtree(folder / "controlnet")
    with pytest.raises(CheckpointError, match="controlnet.config.json is missing"):
        open_checkpoint(folder, family=V0)
