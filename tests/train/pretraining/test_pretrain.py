import dataclasses
import json
import shutil
import signal
from unittest.mock import patch

import pytest
import torch

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.model import tiny
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.pretraining import pretrain
from e2e_deploy.train.pretraining.losses import autoencoder_loss, encode_all
from e2e_deploy.train.pretraining.pretrain import pretrained
from e2e_deploy.train.pretraining.views import load_pictures
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.training import train_model
from tests.train.small_runs import SMALL_UNET, SMALL_VAE, equal, logged, run_table, weights

SIZE = (32, 40)


@pytest.fixture(autouse=True)
def small():
    batches = patch.dict(pretrain.BATCHES, {"autoencoder": 3, "unet": 4})
    with patch.dict(tiny.VAE, SMALL_VAE), patch.dict(tiny.UNET, SMALL_UNET), batches:
        yield


def table(root, steps=(25, 25), **sections):
    parts = {"autoencoder_steps": steps[0], "unet_steps": steps[1], "views": 2}
    sections = {"start": {"checkpoint": "random"}, "pretrain": parts} | sections
    return run_table(root, **sections)


def config(root, steps=(25, 25), **sections):
    return parse_config(table(root, steps, **sections))


def test_random_weights_are_trained_end_to_end_by_one_call(tmp_path, capsys):
    """What ``configs/e2e_tiny_depth.toml`` does: pretraining, a run, and one with larger pictures from its result."""
    run = config(tmp_path, optim={"steps": 2}, then=[{"size": [48, 56], "steps": 1, "lr": 1e-4}])
    result = train_model(run)
    out = tmp_path / "out"
    assert result.model == out / "model"
    assert [len(logged(folder)) for folder in (out / "runs" / "1", out)] == [2, 1]
    told = capsys.readouterr().err
    assert "pretraining of the autoencoder: step 25/25  loss" in told
    assert "pretraining of the unet: step 25/25  loss" in told
    assert "against inverted depth" not in told  # pretrained weights know the direction
    first, last = (
        json.loads((folder / "model" / "e2e_deploy.json").read_text())["trained"]
        for folder in (out / "runs" / "1", out)
    )
    assert first["pretrained"] == {
        "autoencoder_steps": 25,
        "unet_steps": 25,
        "views": 2,
        "images": 4000,
    }
    assert (first["data"][0]["size"], last["data"][0]["size"]) == ([32, 40], [48, 56])
    assert (first["start"], last["start"]) == ("unet", "model")
    # What is done is done: nothing learns again.
    before = weights(result.model)
    assert train_model(run).loss is None
    assert "pretraining" not in capsys.readouterr().err
    assert equal(weights(result.model), before)
    with pytest.raises(UsageError, match="is there already"):
        train_model(run, resume=False)

    root = out / "runs" / "1" / "pretrain"
    start, made = (load_model(open_checkpoint(root / name)) for name in ("start", "unet"))
    pictures = load_pictures(tmp_path / "data", SIZE)

    def errors(model):
        loss = autoencoder_loss(model, pictures, batch=6)
        with torch.no_grad():
            latents = encode_all(made, pictures, "rgb", [pictures.whole])
            wanted = encode_all(made, pictures, "depth", [pictures.whole])
            of_unet = float((model.predict_x0(latents) - wanted).abs().mean())
            return float(loss(torch.Generator().manual_seed(0))), of_unet, float(latents.std())

    (before_vae, before_unet, _), (after_vae, after_unet, spread) = errors(start), errors(made)
    assert after_vae < 0.8 * before_vae
    assert after_unet < 0.9 * before_unet
    assert 0.5 < spread < 2
    assert made.vae.config.scaling_factor == made.scaling_factor


def test_an_interrupted_pretraining_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    run = config(tmp_path, (6, 6), run={"checkpoint_every": 100})
    whole = dataclasses.replace(run, run=dataclasses.replace(run.run, out=str(tmp_path / "whole")))
    expected = weights(pretrained(whole, torch.device("cpu")))
    step, seen = pretrain._Trained.step, []

    def stepping(self, loss, *, lr):
        norm = step(self, loss, lr=lr)
        seen.append(lr)
        if len(seen) in (4, 9):  # in either part
            signal.raise_signal(signal.SIGTERM)
        return norm

    monkeypatch.setattr(pretrain._Trained, "step", stepping)
    root = tmp_path / "out" / "pretrain"
    for name, done in (("autoencoder", 4), ("unet", 3)):
        with pytest.raises(KeyboardInterrupt):
            pretrained(run, torch.device("cpu"))
        (folder,) = checkpoint_folders(root / f"{name}-steps")
        assert folder.name == f"step-{done:08d}"
        assert f"interrupted; step {done} of the {name} is saved" in capsys.readouterr().err
    other = dataclasses.replace(run, pretrain=dataclasses.replace(run.pretrain, views=3))
    with pytest.raises(UsageError, match="was pretrained with other settings or data"):
        pretrained(other, torch.device("cpu"))
    folder = pretrained(run, torch.device("cpu"))
    assert len(seen) == 12
    assert equal(weights(folder), expected)
    for name in ("autoencoder", "unet"):  # killed before they were removed
        (root / f"{name}-steps" / "step-00000006").mkdir(parents=True)
    assert pretrained(run, torch.device("cpu")) == folder
    assert len(seen) == 12
    assert sorted(path.name for path in root.iterdir()) == ["autoencoder", "start", "unet"]


@pytest.mark.parametrize(
    "change", [{"task": "normals"}, {"run": {"seed": 5}}], ids=lambda change: next(iter(change))
)
def test_pretrained_weights_are_not_reused_for_another_task_or_seed(tmp_path, change):
    """Nor the random ones, before anything has learned."""
    pretrained(config(tmp_path, (1, 1)), torch.device("cpu"))
    other, root = config(tmp_path, (1, 1), **change), tmp_path / "out" / "pretrain"
    with pytest.raises(UsageError, match=r"holds weights for depth from seed 0"):
        pretrained(other, torch.device("cpu"))
    (root / "start").rename(tmp_path / "kept")
    with pytest.raises(UsageError, match=r"autoencoder was pretrained with other settings"):
        pretrained(other, torch.device("cpu"))
    for name in ("start", "autoencoder", "unet"):
        shutil.rmtree(root / name)
    (tmp_path / "kept").rename(root / "start")
    with pytest.raises(UsageError, match=r"holds weights for depth from seed 0"):
        pretrained(other, torch.device("cpu"))


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nan_leaves_the_last_good_checkpoint(tmp_path, broken):
    """It comes between two lines of the loss, and each step is a checkpoint."""
    module, steps = torch.nn.Linear(1, 1), []

    def loss_of(generator):
        steps.append(None)
        weight = module.weight.sum()
        if len(steps) < 4:
            return weight.square()
        return weight * torch.nan if broken == "loss" else (weight - weight.detach()).sqrt()

    with pytest.raises(E2EDeployError, match="loss or gradient of the pretraining is NaN"):
        pretrain.learn("unet", module, loss_of, tmp_path, steps=200, lr=1e-3, save_every=1)
    (folder,) = checkpoint_folders(tmp_path)
    assert (folder.name, len(steps)) == ("step-00000003", 4)
    good = torch.nn.Linear(1, 1)
    with pytest.raises(KeyboardInterrupt):  # what is there is what the next run loads
        pretrain.learn("unet", good, lambda _: _stop(good), tmp_path, steps=200, lr=1e-3)
    assert checkpoint_folders(tmp_path)[-1].name == "step-00000004"
    assert all(bool(parameter.isfinite().all()) for parameter in good.parameters())


def test_what_has_learned_keeps_no_gradients(tmp_path):
    module = torch.nn.Linear(1, 1)
    before = module.weight.detach().clone()

    def loss_of(_generator):
        return module.weight.square().sum()

    pretrain.learn("unet", module, loss_of, tmp_path, steps=2, lr=1e-3)
    assert not torch.equal(module.weight, before)
    assert module.weight.grad is None
    assert not module.weight.requires_grad


def _stop(module):
    signal.raise_signal(signal.SIGTERM)
    return module.weight.square().sum()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": {"checkpoint": "runs/other"}}, "pretrain is for start.checkpoint = 'random'"),
        ({"data": [{"root": "a"}, {"root": "b"}]}, "pretrain needs one .* with a size"),
        ({"model": {"precision": "fp16"}}, "pretrain learns without a gradient scaler"),
        ({"then": [{"size": [12, 8], "steps": 200}]}, r"then\[0\]: .* multiples of 8"),
        ({"then": [{"size": [16, 8], "steps": 3}], "optim": {"warmup_steps": 5}}, r"then\[0\]"),
    ],
)
def test_contradictions_are_told(tmp_path, change, told):
    with pytest.raises(UsageError, match=told):
        config(tmp_path, **change)


def test_steps_are_of_one_run(tmp_path):
    run = config(tmp_path, then=[{"size": [48, 56], "steps": 1}])
    with pytest.raises(UsageError, match="`steps` is for one run, and this config has 2"):
        train_model(run, steps=3)
