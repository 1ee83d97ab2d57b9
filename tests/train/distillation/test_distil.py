"""A small VAE in the place of a checkpoint's own, from a folder of pictures or from data, and the run that follows."""

import dataclasses
import json
import re
import signal
from unittest.mock import patch

import cv2
import diffusers
import numpy as np
import pytest
import torch

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.config.distillation import CODERS, shape_of
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.config.settings import DistilConfig
from e2e_deploy.train.distillation import distil
from e2e_deploy.train.distillation.answers import answers_of
from e2e_deploy.train.distillation.sources import PictureFolder, divided, pictures_of
from e2e_deploy.train.pretraining import pretrain
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.training import train_model
from tests.peers import assert_equal_to_its_pipeline
from tests.train.fixtures import write_folder
from tests.train.small_runs import equal, logged, run_table, weights

SMALL = {
    "size": [32, 40],
    "width": 8,
    "encoder_blocks": [0, 0, 1, 1],
    "decoder_blocks": [1, 1, 0, 0],
    "decoder_steps": 6,
    "encoder_steps": 6,
    "batch": 2,
    "uses": 2,
}


def table(root, distil=(), **sections):
    return run_table(root, distil=SMALL | dict(distil), **sections)


def alone(root, distil=(), **sections):
    """A distillation from a folder of pictures, with nothing after it."""
    folder = root / "pictures"
    if not folder.exists():
        (folder / "more").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number, size in enumerate([(60, 80), (40, 50), (90, 64), (33, 47)]):
            coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / ("more" if number % 2 else ".") / f"{number}.jpg"), picture)
        cv2.imwrite(str(folder / "grey.png"), coarse[..., 0].astype(np.uint16) * 257)
    made = table(root, {"pictures": str(folder), **dict(distil)}, **sections)
    for key in ("log_every", "panel_every"):
        del made["run"][key]
    made["model"] = sections.get("model", {})
    return {key: value for key, value in made.items() if key not in ("data", "optim")}


def test_a_folder_of_pictures_is_enough(tmp_path, capsys):
    steps = {"decoder_steps": 60, "encoder_steps": 60, "decoder_lr": 5e-3, "encoder_lr": 5e-3}
    made = parse_config(alone(tmp_path, steps))
    result = train_model(made)
    assert result.model == tmp_path / "out" / "model"
    told = capsys.readouterr().err
    for name in ("decoder", "encoder"):
        found = re.findall(rf"distillation of the {name}: step \d+/60  loss (\S+)", told)
        assert len(found) == 20
        assert float(found[-1]) < 0.6 * float(found[0])
        assert f"distillation of the {name}: held-out: abs_rel_from_teacher" in told
    card = json.loads((result.model / "e2e_deploy.json").read_text())
    facts = card["trained"]["distilled"]
    assert facts["settings"]["teacher"] == "start"
    assert facts["settings"]["pictures"] == {
        "name": "pictures",
        "images": 5,
    }  # one of them held out
    assert facts["settings"]["coder"]["width"] == 8
    assert set(facts["held_out"]["encoder"]) == {"abs_rel_from_teacher"}
    assert facts["unreadable"] == {"pictures": 0, "held_out": 0}
    assert card["note"] == "untrained weights"  # of the teacher, and so of this one
    checkpoint = open_checkpoint(result.model)
    model = load_model(checkpoint)
    assert model.vae.config.out_channels == 1
    teacher = load_model(open_checkpoint(tmp_path / "start"))
    assert equal(model.unet.state_dict(), teacher.unet.state_dict())
    # What is done is done.
    before = weights(result.model, "vae")
    for name in distil.PARTS:  # killed before they were removed
        (tmp_path / "out" / "distil" / f"{name}-steps" / "step-00000060").mkdir(parents=True)
    train_model(made)
    assert not list((tmp_path / "out" / "distil").iterdir())
    assert "/60" not in capsys.readouterr().err
    assert equal(weights(result.model, "vae"), before)
    with pytest.raises(UsageError, match="is there already"):
        train_model(made, resume=False)
    with pytest.raises(UsageError, match="was distilled with other settings, pictures or teacher"):
        train_model(parse_config(alone(tmp_path, steps | {"uses": 3})))


@pytest.fixture(scope="module")
def small_models(tmp_path_factory):
    """A distilled model of either task."""
    tasks = ("depth", "normals")
    folders = {task: tmp_path_factory.mktemp(task) for task in tasks}
    return {
        task: train_model(parse_config(alone(folders[task], task=task))).model for task in tasks
    }


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_diffusers_pipeline_gives_the_same(small_models, task):
    made = small_models[task]
    name = {"depth": "MarigoldDepthPipeline", "normals": "MarigoldNormalsPipeline"}[task]
    pipeline = getattr(diffusers, name).from_pretrained(made)
    assert type(pipeline.vae).__name__ == "AutoencoderTiny"
    frame = np.random.default_rng(1).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    assert_equal_to_its_pipeline(type(pipeline), made, frame, atol=1e-6)


def _card(model):
    return (model / "e2e_deploy.json").read_text()


def test_end_to_end_training_follows_with_the_small_vae(tmp_path, capsys):
    held_out = {"root": str(tmp_path / "data"), "split": "train", "size": [32, 40], "num_images": 2}
    made = table(tmp_path, eval=held_out, optim={"steps": 4, "decay_steps": 4})
    result = train_model(parse_config(made))
    assert len(logged(tmp_path / "out")) == 4
    told = capsys.readouterr().err
    assert "the teacher: held-out: abs_rel" in told
    assert "training unet and vae" in told
    distilled = tmp_path / "out" / "distil" / "model"
    cards = [json.loads(_card(folder))["trained"] for folder in (distilled, result.model)]
    assert cards[0]["distilled"] == cards[1]["distilled"]  # it is kept
    found = cards[0]["distilled"]["held_out"]
    assert found["teacher"]["abs_rel"] != found["encoder"]["abs_rel"]
    assert set(found["encoder"]) == {"abs_rel_from_teacher", *found["teacher"]}
    # Both halves moved with the UNet, and the result still is the small one.
    for part in ("unet", "vae"):
        before, after = (weights(folder, part) for folder in (distilled, result.model))
        assert before.keys() == after.keys()
        assert not any(torch.equal(before[key], after[key]) for key in before if "weight" in key)


def test_an_interrupted_distillation_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    made = parse_config(alone(tmp_path, {"batch": 1, "uses": 3}, run={"checkpoint_every": 100}))
    whole = dataclasses.replace(
        made, run=dataclasses.replace(made.run, out=str(tmp_path / "whole"))
    )
    expected = weights(train_model(whole).model, "vae")
    step, seen = pretrain._Trained.step, []

    def stepping(self, loss, *, lr):
        norm = step(self, loss, lr=lr)
        seen.append(lr)
        if len(seen) in (4, 9):  # in either half
            signal.raise_signal(signal.SIGTERM)
        return norm

    monkeypatch.setattr(pretrain._Trained, "step", stepping)
    root = tmp_path / "out" / "distil"
    for name, done in (("decoder", 4), ("encoder", 3)):
        with pytest.raises(KeyboardInterrupt):
            train_model(made)
        (folder,) = checkpoint_folders(root / f"{name}-steps")
        assert folder.name == f"step-{done:08d}"
        assert f"interrupted; step {done} of the {name} is saved" in capsys.readouterr().err
    result = train_model(made)
    assert len(seen) == 12
    assert equal(weights(result.model, "vae"), expected)
    assert not list(root.iterdir())


def test_a_damaged_picture_is_left_out_or_ends_it(tmp_path, capsys):
    made = alone(tmp_path)
    damaged = tmp_path / "pictures" / "1.png"
    damaged.write_bytes(b"no picture")
    result = train_model(parse_config(made))
    told = capsys.readouterr().err
    assert told.count("pictures that cannot be read: 1; others took their place (the first: ") == 1
    assert told.count("1.png: not a readable picture") == 1
    facts = json.loads(_card(result.model))["trained"]["distilled"]
    assert facts["unreadable"] == {"pictures": 1, "held_out": 0}
    stop = alone(tmp_path, run={"on_bad": "stop", "out": str(tmp_path / "stop")})
    with pytest.raises(Exception, match="1.png: not a readable picture"):
        train_model(parse_config(stop))
    with pytest.raises(InputError, match="no PNG or JPEG picture"):
        train_model(parse_config(alone(tmp_path, {"pictures": str(tmp_path / "start")})))


def test_a_damaged_held_out_picture_is_told(tmp_path, capsys):
    made = parse_config(alone(tmp_path))
    for number in range(20):
        (tmp_path / "pictures" / f"2{number:02}.png").write_bytes(b"no picture")
    first = sorted((tmp_path / "pictures").rglob("*.*"))[0]
    assert divided(25, hold_out=True)[1] == [0, 20]
    result = train_model(made)
    files = sorted((tmp_path / "pictures").rglob("*.*"))
    assert files[0] == first
    assert (
        f"held-out pictures that cannot be read: 1; they are not measured (the first: {files[20]}"
        in (capsys.readouterr().err)
    )
    facts = json.loads(_card(result.model))["trained"]["distilled"]
    assert facts["unreadable"]["held_out"] == 1


def test_an_eval_table_comes_and_goes(tmp_path):
    """It changes what is measured, and not a model that is there."""
    made = alone(tmp_path)
    write_folder(tmp_path / "data", num_samples=2)
    with_eval = made | {
        "eval": {"root": str(tmp_path / "data"), "split": "train", "size": [32, 40]}
    }
    result = train_model(parse_config(made))
    before = weights(result.model, "vae")
    assert equal(weights(train_model(parse_config(with_eval)).model, "vae"), before)
    # Half done, other pictures would be learned from.
    other = tmp_path / "other"
    half = made | {"run": made["run"] | {"out": str(other)}}
    with (
        patch.object(distil.HeldOutPictures, "measure", side_effect=[{}, KeyboardInterrupt]),
        pytest.raises(KeyboardInterrupt),
    ):
        train_model(parse_config(half))
    with pytest.raises(UsageError, match="learned from 4 pictures, and this run would from 5"):
        train_model(parse_config(half | {"eval": with_eval["eval"]}))
    assert equal(weights(train_model(parse_config(half)).model, "vae"), before)


def test_targets_are_in_float32_also_under_autocast(tmp_path):
    made = parse_config(alone(tmp_path, model={"precision": "bf16"}))
    dtypes = []

    def asked(teacher, rgb, **settings):
        last = teacher.get_submodule(teacher.last_convolution)
        hook = last.register_forward_hook(lambda _layer, _given, out: dtypes.append(out.dtype))
        found = answers_of(teacher, rgb, **settings)
        hook.remove()
        return found

    with patch.object(distil, "answers_of", asked):
        train_model(made)
    assert set(dtypes) == {torch.float32}


def test_no_truth_is_read(tmp_path):
    """Of [[data]] the pictures are enough."""
    made = parse_config(table(tmp_path))
    for file in (tmp_path / "data").rglob("depth/*"):
        file.write_bytes(b"no depth")
    pictures = pictures_of(made)
    assert len(pictures) == 6
    assert pictures.read(0).shape == (48, 64, 3)


def test_alpha_is_dropped(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 255, (8, 9, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "8.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    cv2.imwrite(str(tmp_path / "16.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA) * np.uint16(257))
    pictures = PictureFolder(tmp_path)
    for number in range(2):
        assert np.array_equal(pictures.read(number), rgba[..., :3])


def test_checkpointed_activations_change_nothing(small_models):
    """Diffusers' EncoderTiny leaves its input in [-1, 1] where it checkpoints."""
    folder = small_models["depth"]
    rgb = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    results = [
        TrainingForward(
            load_model(open_checkpoint(folder)), train=("unet", "vae"), gradient_checkpointing=on
        )(rgb, None)
        for on in (False, True)
    ]
    assert torch.equal(*results)


def test_pictures_are_held_out():
    assert divided(41, hold_out=True) == ([n for n in range(41) if n % 20], [0, 20, 40])
    assert divided(3, hold_out=False) == ([0, 1, 2], [])
    assert divided(1, hold_out=True) == ([0], [0])
    assert len(divided(20_000, hold_out=True)[1]) == 100


def test_shapes():
    assert shape_of(DistilConfig(size=(8, 8))) == CODERS["turbo"]
    nano = shape_of(DistilConfig(size=(8, 8), coder="nano", width=24))
    assert (nano.width, nano.decoder_blocks) == (24, CODERS["nano"].decoder_blocks)


BOTH = {"coder": "nano", "width": 8, "encoder_blocks": [0, 0, 1, 1], "decoder_blocks": [1, 1, 0, 0]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": {"checkpoint": "random"}}, "distil needs a teacher"),
        ({"distil": SMALL | {"coder": "nano"}}, "distil.coder = 'nano' has no effect beside"),
        ({"distil": SMALL | {"size": [30, 40]}}, "distil.size .* multiples of 8"),
        ({"distil": SMALL | {"decoder_blocks": [1, 1]}}, "distil.decoder_blocks"),
        ({"distil": SMALL, "diffusion": {}}, "which \\[diffusion\\] needs"),
        ({"distil": SMALL, "task": "geometry"}, "distil is for a model of one result"),
        ({"distil": SMALL, "data": []}, "distil has nothing to look at"),
        ({"distil": SMALL, "data": []}, "\\[optim\\] has no effect without a \\[\\[data\\]\\]"),
        ({"distil": SMALL, "data": [], "augment": {"smallest_view": 0.5}}, "augment.smallest_view"),
        ({"distil": SMALL, "data": []}, "model.train has no effect"),
        ({"distil": SMALL, "data": [], "model": {"noise": "pyramid"}}, "model.noise has no effect"),
        ({"distil": SMALL, "data": [], "eval": {"root": "a", "every": 7}}, "eval.every has no eff"),
        ({"distil": SMALL, "data": [], "run": {"out": "a", "keep": 7}}, "run.keep has no effect"),
        ({"distil": SMALL, "data": []}, "run.log_every has no effect"),
        ({"distil": SMALL, "data": []}, "run.panel_every has no effect"),
        ({"distil": SMALL, "model": {"precision": "fp16"}}, "which fp16 needs"),
        ({"data": []}, "data is empty"),
    ],
)
def test_contradictions_are_told(tmp_path, change, told):
    write_folder(tmp_path / "data", num_samples=1)
    made = run_table(tmp_path)
    if "start" in change:
        made["distil"] = SMALL
    with pytest.raises(UsageError, match=told):
        parse_config(made | change)
