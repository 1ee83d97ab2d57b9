import json

import numpy as np
import pytest
import torch
from diffusers import MarigoldDepthPipeline, MarigoldNormalsPipeline
from safetensors.torch import load_file

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.model.checkpoint import bundled_checkpoint, bundled_id, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.tiny import build_tiny


@pytest.mark.parametrize(
    ("task", "pipeline"), [("depth", MarigoldDepthPipeline), ("normals", MarigoldNormalsPipeline)]
)
@pytest.mark.parametrize("trained", [False, True])
def test_diffusers_loads_and_runs_it(task, pipeline, trained, request, photo):
    folder = bundled_checkpoint(task) if trained else request.getfixturevalue(f"tiny_{task}")
    pipe = pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    result = pipe(
        photo, num_inference_steps=1, processing_resolution=64, output_type="np"
    ).prediction
    assert result.shape == (1, 96, 128, 1 if task == "depth" else 3)
    assert np.isfinite(result).all()


def test_it_is_small(tiny_depth):
    model = load_model(open_checkpoint(tiny_depth))
    parameters = sum(p.numel() for p in model.parameters())
    text = load_file(tiny_depth / "text_encoder/model.safetensors")
    parameters += sum(t.numel() for t in text.values())
    assert parameters <= 6_000_000
    assert 2 * parameters <= 16_000_000  # bytes as fp16
    assert (model.stride, model.network_stride) == (8, 32)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_depth, tmp_path):
    torch.manual_seed(123)  # whatever the caller's generator did
    state = torch.random.get_rng_state()
    again = build_tiny(tmp_path / "again", "depth")
    assert torch.equal(torch.random.get_rng_state(), state)
    other = build_tiny(tmp_path / "other", "depth", seed=1)
    digests = [open_checkpoint(f).sha256() for f in (tiny_depth, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_an_existing_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "tiny").mkdir()
    assert build_tiny(tmp_path / "tiny", "depth") == tmp_path / "tiny"
    assert list((tmp_path / "tiny").iterdir()) == []


def test_an_unknown_task(tmp_path):
    with pytest.raises(UsageError):
        build_tiny(tmp_path / "tiny", "segmentation")


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(E2EDeployError, match="file is not a folder"):
        build_tiny(tmp_path / "file" / "tiny", "depth")


def test_a_full_disk_leaves_nothing(tmp_path, full_disk):
    with full_disk(1_000_000), pytest.raises(E2EDeployError, match="could not be written"):
        build_tiny(tmp_path / "tiny", "depth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "task"), [("depth", "depth"), ("normals", "normals"), ("turbo", "depth")]
)
def test_the_bundled_checkpoints_are_trained_small_and_complete(name, task):
    folder = bundled_checkpoint(name)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.identity.task, checkpoint.identity.family.name) == (task, "marigold")
    assert checkpoint.note == ""
    weights = list(folder.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in weights) < 16e6
    for part in ("unet", "vae"):
        (file,) = (folder / part).glob("*.safetensors")
        assert {t.dtype for t in load_file(file).values()} == {torch.float16}
    assert sum(p.numel() for p in load_model(checkpoint).parameters()) < 6e6
    card = json.loads((folder / "e2e_deploy.json").read_text())
    trained = card["trained"]
    runs = [
        run
        for training in trained.get("trainings", [trained])
        for run in training.get("end_to_end", [training.get("config")])
    ]
    assert {run["task"] for run in runs} == {task}
    assert "held-out scenes" in (folder / "README.md").read_text()


def test_the_bundled_checkpoints_have_names_without_a_path():
    assert bundled_id("depth") == "bundled:e2e-tiny-depth"
    opened = open_checkpoint(bundled_id("normals"))
    assert (opened.id, opened.path) == (
        "bundled:e2e-tiny-normals",
        bundled_checkpoint("normals"),
    )
    turbo = open_checkpoint("bundled:e2e-tiny-turbo")
    assert (turbo.path, turbo.identity.task) == (bundled_checkpoint("turbo"), "depth")
    assert turbo.configs["vae"]["_class_name"] == "AutoencoderTiny"
    with pytest.raises(UsageError, match="is called 'bundled:foo'; .* bundled:e2e-tiny-turbo"):
        open_checkpoint("bundled:foo")
    with pytest.raises(UsageError, match="no checkpoint in the package is called '../x'"):
        open_checkpoint("bundled:e2e-tiny-../x")


def test_trained_depth_knows_near_from_far():
    """A picture it never saw: a wall behind, a floor that comes nearer, and a person in front."""
    model = load_model(open_checkpoint(bundled_checkpoint("depth")))
    frame = reference_frames((256, 320), 1)[0]
    with torch.no_grad():
        rgb_13HW = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
        depth = model(rgb_13HW)[0, 0].numpy()
    assert depth[-40:].mean() + 0.1 < depth[:40].mean()
