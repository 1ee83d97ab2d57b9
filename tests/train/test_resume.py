import json

import pytest
import torch
from torch import nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.train.resume import (
    Progress,
    checkpoint_folders,
    load_weights,
    read_state,
    save_checkpoint,
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


def test_state_without_a_counter(tmp_path):
    folder = Trained().save(tmp_path, 3)
    state = json.loads((folder / "state.json").read_text())
    del state["num_bad"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="lacks 'num_bad'"):
        read_state(folder)
