"""A VAE in the place of a checkpoint's own: what is taken, what it computes, what is refused."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.coders.swap import coder_folder, swap_coder
from e2e_deploy.model.loading import load_model
from tests.small_checkpoint import edit_json, tiny_coder, write_small

REVISION = "0" * 40


@pytest.fixture
def coder(tmp_path):
    """A folder of an AutoencoderTiny alone, with a scaling factor of its own."""
    tiny_coder(1, scaling_factor=0.5).save_pretrained(tmp_path / "coder")
    return tmp_path / "coder"


@pytest.mark.parametrize("part", ["both", "encoder", "decoder"])
def test_each_half_is_that_of_its_own_vae(small, coder, part):
    checkpoint = open_checkpoint(small)
    swapped = swap_coder(checkpoint, coder, part)
    own, model = load_model(checkpoint), load_model(swapped)
    tiny = tiny_coder(1, scaling_factor=0.5).eval()
    rgb = torch.rand(1, 3, 16, 24) * 2 - 1
    with torch.inference_mode():
        z = model.encode(rgb)
        encoded = tiny.encode(rgb).latents * 0.5 if part != "decoder" else own.encode(rgb)
        torch.testing.assert_close(z, encoded, rtol=0, atol=0)
        decoded = tiny.decode(z / 0.5).sample if part != "encoder" else own.decode(z)
        torch.testing.assert_close(model.decode(z), decoded, rtol=0, atol=0)
        assert not torch.equal(model(rgb), own(rgb))
    assert swapped.sha256() == checkpoint.sha256()
    assert swapped.coder.sha256() != checkpoint.sha256()
    halves = {"both": "VAE from", "encoder": "VAE's encoder", "decoder": "VAE's decoder"}
    assert f"; {halves[part]}" in swapped.describe()
    parameters = sum(p.numel() for p in model.vae.parameters())
    halved = [getattr(each, half) for each, half in _halves(own.vae, tiny, part)]
    assert parameters - sum(p.numel() for each in halved for p in each.parameters()) < 200


def _halves(own, tiny, part):
    yield (own if part == "decoder" else tiny), "encoder"
    yield (own if part == "encoder" else tiny), "decoder"


def test_a_checkpoint_s_own_vae_in_its_place_changes_nothing(small):
    checkpoint = open_checkpoint(small)
    rgb = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        expected = load_model(checkpoint)(rgb)
        for part in ("both", "encoder", "decoder"):
            found = load_model(swap_coder(checkpoint, small, part))(rgb)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def refused(checkpoint, vae, part="both", error=CheckpointError):
    with pytest.raises(error) as caught:
        load_model(swap_coder(open_checkpoint(checkpoint), vae, part))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_vae(small, coder, tmp_path):
    assert "no such is no VAE: expected a folder" in refused(small, "no such")
    assert "an empty text is no VAE" in refused(small, "")
    assert "config.json is missing" in refused(small, tmp_path)
    assert "`vae_part` is 'half'" in refused(small, coder, "half", UsageError)
    edit_json(coder / "config.json", _class_name="UNet2DConditionModel")
    assert "expected 'AutoencoderKL' or 'AutoencoderTiny'" in refused(small, coder)


def test_a_hub_id_needs_a_commit_and_is_fetched_only_where_it_may_be(small):
    assert "must be pinned to a commit" in refused(small, "owner/taesd@main", error=UsageError)
    spec = f"owner/taesd@{REVISION}"
    assert "could not be fetched from the hub" in refused(small, spec)
    with pytest.raises(CheckpointError, match="is not on this machine"):
        swap_coder(open_checkpoint(small), spec, fetch=False)


def test_the_vae_of_a_packaged_checkpoint(small):
    found = coder_folder("bundled:e2e-tiny-depth")
    assert (found / "config.json").is_file()
    assert found.name == "vae"
    assert "no checkpoint in the package" in refused(small, "bundled:e2e-tiny-x", error=UsageError)


def test_a_pickle(small, coder):
    file = coder / "diffusion_pytorch_model.safetensors"
    file.unlink()
    torch.save(tiny_coder().state_dict(), file.with_suffix(".bin"))
    assert "is a pickle" in refused(small, coder)


def test_another_latent_space(small, coder, tmp_path):
    for name, changes, says in (
        (
            "sixteen",
            {"latent_channels": 16},
            "has 16 latent channels and the checkpoint's own VAE 4",
        ),
        (
            "deep",
            {
                **dict.fromkeys(
                    ("encoder_block_out_channels", "decoder_block_out_channels"), (8, 8, 8)
                ),
                **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), (1, 1, 1)),
            },
            "has 3 levels and the checkpoint's own VAE 2",
        ),
    ):
        tiny_coder(**changes).save_pretrained(tmp_path / name)
        assert says in refused(small, tmp_path / name)
    edit_json(coder / "config.json", shift_factor=0.06)
    assert "shifts its latents by 0.06" in refused(small, coder)


def test_one_channel_is_for_what_is_decoded_to_one(small, small_normals, tmp_path):
    tiny_coder(out_channels=1).save_pretrained(tmp_path / "one")
    assert load_model(swap_coder(open_checkpoint(small), tmp_path / "one"))
    assert "expected 3 for normals" in refused(small_normals, tmp_path / "one")
    assert swap_coder(open_checkpoint(small_normals), tmp_path / "one", "encoder")


def test_weights_that_do_not_fit(small, coder):
    save_file({"a": torch.zeros(1)}, coder / "diffusion_pytorch_model.safetensors")
    assert "asks for up to" in refused(small, coder)


def test_a_folder_with_a_checkpoint_is_taken_by_its_vae(small, tmp_path):
    other = write_small(tmp_path / "other", seed=3)
    alone = shutil.copytree(other / "vae", tmp_path / "alone")
    found = [swap_coder(open_checkpoint(small), each).coder for each in (other, alone)]
    assert found[0].path == other / "vae"
    assert found[0].sha256() == found[1].sha256()
