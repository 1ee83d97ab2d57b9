import json
import shutil

import pytest
import torch

from e2e_deploy.checkpoint import open_checkpoint, read_header
from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.tiny import UNTRAINED
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


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01, 0.0001, 0.0])
def test_truncated_safetensors(small_copy, keep):
    data = (small_copy / UNET).read_bytes()
    (small_copy / UNET).write_bytes(data[: int(len(data) * keep)])
    assert UNET in refused(small_copy)


@pytest.mark.parametrize(
    "data",
    [
        b"not safetensors at all, but long enough to hold a length",
        b"\x02" + bytes(7) + b"[]",
        b"\x07" + bytes(7) + b'{"a":1}',
        (2**40).to_bytes(8, "little") + b"{}",
    ],
)
def test_foreign_bytes_in_place_of_safetensors(small_copy, data):
    (small_copy / UNET).write_bytes(data)
    assert "is not a safetensors file" in refused(small_copy)


def test_trailing_bytes_in_safetensors(small_copy):
    with (small_copy / UNET).open("ab") as stream:
        stream.write(b"more")
    assert "truncated or damaged" in refused(small_copy)


def test_the_header_tells_names_types_and_shapes(small):
    header = read_header(small / UNET)
    assert header["conv_in.weight"] == ("F32", (16, 8, 3, 3))


@pytest.mark.parametrize("change", [{"in_channels": 9}, {"out_channels": 3}, {"in_channels": "8"}])
def test_channel_counts_of_another_model(small_copy, change):
    edit_json(small_copy / "unet/config.json", **change)
    assert "expected 8 (rgb latent and noise) or 4 (rgb latent) in, 4 out" in refused(small_copy)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("vae/config.json", {"latent_channels": "four"}),
        ("vae/config.json", {"latent_channels": 0}),
        ("model_index.json", {"default_processing_resolution": "768 px"}),
        ("model_index.json", {"default_processing_resolution": -5}),
    ],
)
def test_numbers_that_are_none(small_copy, file, change):
    edit_json(small_copy / file, **change)
    message = refused(small_copy)
    assert next(iter(change)) in message
    assert "positive whole number" in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff\xfe"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "e2e_deploy.json"])
def test_configs_that_are_no_json_objects(small_copy, name, text):
    (small_copy / name).write_text(text, encoding="latin-1")
    assert name in refused(small_copy)


def test_relatives_are_refused_before_their_weights_are_looked_for(small_copy):
    edit_json(small_copy / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
    (small_copy / UNET).unlink()
    assert "LCM" in refused(small_copy)


def test_neither_a_folder_nor_a_hub_id(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    for spec in (file, tmp_path / "missing", "/no/such/folder", "a b/c"):
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
    assert open_checkpoint(small_copy).weight_file("unet").name.endswith(".fp16.safetensors")


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
    assert len({first, second, digest()}) == 3


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
