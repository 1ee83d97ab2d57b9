import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.train.run.resume import (
    DataState,
    Progress,
    changed_data,
    checkpoint_folders,
    load_scaler,
    load_weights,
    read_state,
    save_checkpoint,
    way_back,
)


class Trained:
    """A small module with its optimizer after a few steps."""

    def __init__(self, seed=0, steps=3):
        torch.manual_seed(seed)
        self.parts = {"unet": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))}
        self.named = [(f"unet.{n}", p) for n, p in self.parts["unet"].named_parameters()]
        self.optimizer = torch.optim.AdamW([p for _, p in self.named], lr=0.1, fused=True)
        for _ in range(steps):
            self.step()

    def step(self):
        self.optimizer.zero_grad()
        self.parts["unet"](torch.ones(5, 3)).square().sum().backward()
        self.optimizer.step()

    def save(self, root, step, keep=3):
        progress = Progress(step=step, num_bad=2, scaler={"scale": 4.0})
        arguments = (progress, {"task": "depth"}, self.parts, self.named, self.optimizer)
        return save_checkpoint(root, *arguments, keep=keep)

    def values(self):
        return [p.detach().clone() for _, p in self.named]


def test_continues_bitwise(tmp_path):
    one, other = Trained(), Trained(seed=1, steps=0)
    folder = one.save(tmp_path, 3)
    load_weights(folder, other.parts, other.named, other.optimizer)
    for trained in (one, other):
        trained.step()
        trained.step()
    assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))
    progress, config = read_state(folder)
    assert progress == Progress(step=3, num_bad=2, scaler={"scale": 4.0})
    assert config == {"task": "depth"}


def test_no_pickle(tmp_path):
    folder = Trained().save(tmp_path, 3)
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["optimizer.safetensors", "state.json", "unet.safetensors"]


def test_keeps_the_newest(tmp_path):
    trained = Trained()
    for step in (1, 2, 10, 100):
        trained.save(tmp_path, step, keep=2)
    names = [folder.name for folder in checkpoint_folders(tmp_path)]
    assert names == ["step-00000010", "step-00000100"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_step_is_not_written_twice(tmp_path):
    trained = Trained()
    folder = trained.save(tmp_path, 3)
    before = (folder / "unet.safetensors").stat().st_mtime_ns
    trained.save(tmp_path, 3)
    assert (folder / "unet.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["unet.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damage_is_named(tmp_path, name, damage):
    trained = Trained()
    folder = trained.save(tmp_path, 3)
    file = folder / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])

    def read():
        read_state(folder)
        load_weights(folder, trained.parts, trained.named, trained.optimizer)

    with pytest.raises(CheckpointError, match=r"step-00000003"):
        read()


def test_another_model_does_not_fit(tmp_path):
    trained = Trained()
    folder = trained.save(tmp_path, 3)
    trained.parts["unet"] = nn.Linear(3, 4)
    with pytest.raises(CheckpointError, match="cannot be continued from"):
        load_weights(folder, trained.parts, trained.named, trained.optimizer)


def test_copies_and_other_folders_are_not_ours(tmp_path):
    trained = Trained()
    folder = trained.save(tmp_path, 3)
    others = [tmp_path / name for name in ("step-00000003-good", "step-by-step", "step-2")]
    for other in others:
        shutil.copytree(folder, other)
    assert checkpoint_folders(tmp_path) == [folder]
    trained.save(tmp_path, 4, keep=1)
    assert not folder.exists()
    assert all(other.is_dir() for other in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step is -1; expected at least 0"),
        ({"step": 3.0}, "step is 3.0; expected a value of type int"),
        ({"step": "3"}, "step is '3'"),
        ({"step": True}, "step is True"),
        ({"step": 4}, "step is 4, which is not the folder's"),
        ({"num_bad": 10**12}, "num_bad is 1000000000000; expected at least 0 and at most"),
        ({"scaler": {"scale": "big"}}, "scaler.scale is 'big'"),
        ({"scaler": [1]}, "scaler must be a table"),
        ({"data": {"d (train)": {"images": -3, "sha256": "0"}}}, "images is -3"),
        ({"config": 3}, "config is no table"),
    ],
)
def test_odd_states_are_refused(tmp_path, change, message):
    folder = Trained().save(tmp_path, 3)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(CheckpointError, match="cannot be continued from") as caught:
        read_state(folder)
    assert message in str(caught.value)


def test_a_state_of_an_older_version_knows_no_data(tmp_path):
    folder = Trained().save(tmp_path, 3)
    state = json.loads((folder / "state.json").read_text())
    del state["data"]
    (folder / "state.json").write_text(json.dumps(state))
    assert read_state(folder)[0].data == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("unet.0.weight/exp_avg"), "first at 'unet.0.weight/exp_avg'"),
        (lambda state: state.update({"unet.9.weight/step": torch.ones(())}), "unet.9.weight/step"),
        (lambda state: state.update({"unet.0.bias/exp_avg": torch.ones(7)}), "unet.0.bias/exp_avg"),
        (lambda state: state.update({"unet.0.bias/step": torch.ones(4)}), "unet.0.bias/step"),
        (lambda state: state["unet.0.bias/exp_avg_sq"].fill_(torch.nan), "holds NaN or infinity"),
    ],
)
def test_an_odd_optimizer_state_is_refused(tmp_path, change, message):
    trained, before = Trained(), Trained().values()
    folder = trained.save(tmp_path, 3)
    state = load_file(folder / "optimizer.safetensors")
    change(state)
    save_file(state, folder / "optimizer.safetensors")
    other = Trained()
    with pytest.raises(CheckpointError, match="cannot be continued from") as caught:
        load_weights(folder, other.parts, other.named, other.optimizer)
    assert message in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(other.values(), before, strict=True))


def test_the_scaler_comes_back_or_is_refused(tmp_path):
    old = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5)
    new = torch.amp.GradScaler("cpu")
    load_scaler(tmp_path, old.state_dict(), new)
    assert new.state_dict() == old.state_dict()
    with pytest.raises(CheckpointError, match="the scaler's"):
        load_scaler(tmp_path, {"scale": 8.0}, new)


def test_the_way_back_after_nan(tmp_path):
    assert way_back(tmp_path, bad_since=3, resumed_at=0) == "no checkpoint was written before"
    folder = Trained().save(tmp_path, 3)
    assert f"goes on from {folder}" in way_back(tmp_path, bad_since=5, resumed_at=0)
    assert f"no step since {folder} gave a number" in way_back(tmp_path, bad_since=3, resumed_at=3)


def test_data_that_changed_is_told():
    before = {
        "d (train)": DataState(images=3, sha256="a"),
        "e (train)": DataState(images=3, sha256="b"),
    }
    assert changed_data(before, before) == []
    assert changed_data({}, before) == []
    grown = before | {"d (train)": DataState(images=5, sha256="c")}
    (sentence,) = changed_data(before, grown)
    assert "d (train) has changed since (3 images then, 5 now)" in sentence
    (sentence,) = changed_data(before, before | {"e (train)": DataState(images=3, sha256="c")})
    assert "e (train) has changed since (dataset.toml or a file changed)" in sentence


def test_state_without_a_counter(tmp_path):
    folder = Trained().save(tmp_path, 3)
    state = json.loads((folder / "state.json").read_text())
    del state["num_bad"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="lacks num_bad"):
        read_state(folder)
