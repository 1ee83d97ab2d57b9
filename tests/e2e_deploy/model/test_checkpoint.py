import json
import os
import re
import shutil

import pytest
import torch

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.tiny import UNTRAINED
from e2e_deploy.model.weights import Stored
from tests.small_checkpoint import edit_json, edit_weights

UNET = "unet/diffusion_pytorch_model.safetensors"


def refused(folder, **named):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_a_marigold_folder_is(small):
    checkpoint = open_checkpoint(small)
    assert (checkpoint.identity.family.name, checkpoint.identity.task) == ("marigold", "depth")
    assert (checkpoint.resolution, checkpoint.full_z_range, checkpoint.note) == (64, True, "")
    assert "from MarigoldDepthPipeline" in checkpoint.describe()


def test_e2e_tiny_says_that_it_is_untrained(tiny_depth):
    assert open_checkpoint(tiny_depth).note == UNTRAINED


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_a_missing_file_is_named(small_copy, name):
    (small_copy / name).unlink()
    assert f"{small_copy / name} is missing" in refused(small_copy)


def test_a_pickle_alone_is_refused_with_the_way_to_convert_it(small_copy):
    (small_copy / UNET).unlink()
    torch.save({"a": torch.zeros(1)}, (small_copy / UNET).with_suffix(".bin"))
    message = refused(small_copy)
    assert "diffusion_pytorch_model.bin is a pickle" in message
    assert "save_file" in message


def test_the_header_tells_names_types_and_shapes(small):
    header = open_checkpoint(small).weights["unet"].tensors
    assert header["conv_in.weight"] == Stored(small / UNET, "F32", (16, 8, 3, 3))


@pytest.mark.parametrize("change", [{"in_channels": 9}, {"out_channels": 3}])
def test_channel_counts_of_another_model(small_copy, change):
    edit_json(small_copy / "unet/config.json", **change)
    assert "expected 8 (rgb latent and noise) or 4 (rgb latent) in, 4 out" in refused(small_copy)


UNET_CONFIG, VAE_CONFIG = "unet/config.json", "vae/config.json"
TEXT_CONFIG, SCHEDULE = "text_encoder/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (VAE_CONFIG, "latent_channels", "four"),
        (VAE_CONFIG, "latent_channels", 0),
        (VAE_CONFIG, "scaling_factor", 0),
        (VAE_CONFIG, "scaling_factor", -0.18),
        (VAE_CONFIG, "scaling_factor", "0.18"),
        (VAE_CONFIG, "scaling_factor", [0.18]),
        (VAE_CONFIG, "scaling_factor", True),
        (VAE_CONFIG, "layers_per_block", 10**6),
        (VAE_CONFIG, "norm_num_groups", 0),
        (UNET_CONFIG, "norm_num_groups", 0),
        (UNET_CONFIG, "norm_eps", -1e-5),
        (UNET_CONFIG, "attention_head_dim", 0),
        (UNET_CONFIG, "attention_head_dim", [1, 0]),
        (UNET_CONFIG, "attention_head_dim", [1, "2"]),
        (UNET_CONFIG, "attention_head_dim", {"a": 1}),
        (UNET_CONFIG, "layers_per_block", 10**6),
        (UNET_CONFIG, "layers_per_block", [10**6, 1]),
        (UNET_CONFIG, "transformer_layers_per_block", [[1, 10**6], 1]),
        (UNET_CONFIG, "block_out_channels", "wide"),
        (UNET_CONFIG, "block_out_channels", [16, -32]),
        (UNET_CONFIG, "cross_attention_dim", 1.5),
        (TEXT_CONFIG, "num_attention_heads", 0),
        (TEXT_CONFIG, "num_hidden_layers", 10**6),
        (TEXT_CONFIG, "vocab_size", 10**12),
        (SCHEDULE, "num_train_timesteps", 0),
        (SCHEDULE, "num_train_timesteps", 10**9),
        (SCHEDULE, "num_train_timesteps", "many"),
        (SCHEDULE, "beta_end", 2),
        (SCHEDULE, "trained_betas", [0.1, "x"]),
        ("model_index.json", "default_processing_resolution", "768 px"),
        ("model_index.json", "default_processing_resolution", -5),
        ("model_index.json", "use_full_z_range", "no"),
        ("e2e_deploy.json", "family", ["marigold"]),
        ("e2e_deploy.json", "task", "pose"),
        ("e2e_deploy.json", "note", {"text": "x"}),
    ],
)
def test_values_that_no_model_has(small_copy, file, key, value):
    if not (small_copy / file).exists():
        (small_copy / file).write_text("{}")
    edit_json(small_copy / file, **{key: value})
    message = refused(small_copy)
    assert re.search(re.escape(f"{small_copy / file}: {key}") + r"(\[\d\])* is ", message)
    assert "expected" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("file", "change", "count"),
    [
        (UNET_CONFIG, {"layers_per_block": 64, "transformer_layers_per_block": 64}, 8320),
        (UNET_CONFIG, {"layers_per_block": [1, 64], "transformer_layers_per_block": [[2], 1]}, 384),
        (VAE_CONFIG, {"block_out_channels": [8] * 40, "layers_per_block": 8}, 640),
        (TEXT_CONFIG, {"num_hidden_layers": 100}, 100),
    ],
)
def test_layers_without_weights_are_refused_before_anything_is_built(
    small_copy, file, change, count
):
    edit_json(small_copy / file, **change)
    message = refused(small_copy)
    assert f"asks for up to {count} layers; expected at most " in message
    assert str(small_copy / file.split("/")[0]) in message


def test_a_resolution_of_0_is_the_frames_own_and_none_is_the_default(small_copy):
    edit_json(small_copy / "model_index.json", default_processing_resolution=0)
    assert open_checkpoint(small_copy).resolution == 0
    edit_json(small_copy / "model_index.json", default_processing_resolution=None)
    assert open_checkpoint(small_copy).resolution == 768


def test_a_note_is_shown_as_one_plain_line(small_copy):
    (small_copy / "e2e_deploy.json").write_text('{"note": "see \\u001b[31mhere\\ud800\\nand"}')
    assert open_checkpoint(small_copy).note == "see \ufffd[31mhere\ufffd and"


@pytest.mark.parametrize("name", ["model_index.json", "e2e_deploy.json", UNET_CONFIG])
def test_pipes_and_devices_in_place_of_configs(small_copy, name):
    (small_copy / name).unlink(missing_ok=True)
    os.mkfifo(small_copy / name)
    assert f"{small_copy / name} cannot be read: it is a named pipe" in refused(small_copy)
    (small_copy / name).unlink()
    (small_copy / name).symlink_to("/dev/zero")
    assert f"{small_copy / name} cannot be read: it is a device" in refused(small_copy)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff\xfe"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "e2e_deploy.json"])
def test_configs_that_are_no_json_objects(small_copy, name, text):
    (small_copy / name).write_text(text, encoding="latin-1")
    assert name in refused(small_copy)


def test_relatives_are_refused_before_their_weights_are_looked_for(small_copy):
    edit_json(small_copy / "model_index.json", _class_name="FluxPipeline")
    (small_copy / UNET).unlink()
    assert "FLUX" in refused(small_copy)


def test_neither_a_folder_nor_a_hub_id(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match="is an empty text"):
        open_checkpoint("")
    for spec in (file, tmp_path / "missing", "/no/such/folder", "a b/c", "a\0b"):
        assert "expected a diffusers folder or a hub id" in refused(spec)


@pytest.mark.parametrize("spec", ["owner/name", "owner/name@main", "owner/name@v1.0", "o/n@abc12"])
def test_a_hub_id_without_a_commit_is_wrong_usage(spec):
    with pytest.raises(UsageError, match="must be pinned to a commit"):
        open_checkpoint(spec)


def test_a_hub_that_cannot_be_reached():
    message = refused(f"e2e-deploy-tests/nothing@{'0' * 40}")
    assert "could not be fetched from the hub" in message


def test_the_fp16_variant_is_found_by_its_name(small_copy):
    (small_copy / UNET).rename(small_copy / UNET.replace(".safe", ".fp16.safe"))
    (file,) = open_checkpoint(small_copy).weights["unet"].files
    assert file.name.endswith(".fp16.safetensors")


def test_the_hash_follows_weights_and_configs_and_nothing_else(small_copy, tmp_path):
    def digest():
        return open_checkpoint(small_copy).sha256()

    first = digest()
    moved = shutil.copytree(small_copy, tmp_path / "elsewhere")
    (moved / "README.md").write_text("hello")
    assert open_checkpoint(moved).sha256() == first
    edit_json(small_copy / "scheduler/scheduler_config.json", beta_end=0.013)
    second = digest()
    edit_weights(small_copy, "vae", lambda w: {k: v + 1e-3 for k, v in w.items()})
    third = digest()
    edit_json(small_copy / "model_index.json", use_full_z_range=False)  # another z of normals
    assert len({first, second, third, digest()}) == 4


def test_bad_checkpoints_through_the_command_line(small_copy, tmp_path, cli):
    out = tmp_path / "bundle"
    (small_copy / UNET).unlink()
    cases = {small_copy: 5, tmp_path / "none": 5, "owner/name": 2}
    for spec, expected in cases.items():
        code, stdout, stderr = cli("export", spec, "--out", out)
        assert (code, stdout) == (expected, "")
        assert stderr.startswith("error: ")
        assert stderr.count("\n") == 1
    assert not out.exists()
    assert json.loads((small_copy / "model_index.json").read_text())  # untouched
