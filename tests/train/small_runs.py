"""Runs that take a second: a network of 60 thousand weights and pictures of 32 x 40 pixels."""

import json
from pathlib import Path
from unittest.mock import patch

import diffusers
import pytest
import torch

from e2e_deploy.model import tiny
from e2e_deploy.train.config.reading import parse_config
from tests.train.fixtures import write_folder

SMALL_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
SMALL_UNET = {
    "block_out_channels": (16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 2),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on several threads, and their sums differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_start(folder: Path, task: str = "depth", *, seed: int = 0, **unet: object) -> Path:
    """A checkpoint with the small network and random weights."""
    with patch.dict(tiny.VAE, SMALL_VAE), patch.dict(tiny.UNET, SMALL_UNET | unet):
        return tiny.build_tiny(folder, task, seed=seed)


def run_table(root: Path, **sections: dict) -> dict:
    """A run below ``root`` as a plain table; ``sections`` change single keys."""
    if not (root / "data").exists():
        write_folder(root / "data", num_samples=6)
    if not (root / "start").exists():
        write_start(root / "start", sections.get("task", "depth"))
    table = {
        "task": "depth",
        "start": {"checkpoint": str(root / "start")},
        "data": [{"root": str(root / "data"), "size": [32, 40]}],
        "model": {"train": ["unet", "vae"], "gradient_checkpointing": False},
        "optim": {
            "lr": 1e-3,
            "steps": 6,
            "warmup_steps": 0,
            "decay_steps": 100,
            "micro_batch": 2,
            "effective_batch": 4,
        },
        "run": {
            "out": str(root / "out"),
            "checkpoint_every": 2,
            "workers": 0,
            "log_every": 1,
            "panel_every": 0,
        },
    }
    for name, values in sections.items():
        table[name] = table.get(name, {}) | values if isinstance(values, dict) else values
    return table


def small_config(root: Path, **sections: dict):
    return parse_config(run_table(root, **sections))


def logged(out: Path) -> list[dict]:
    """Steps in the run's log, without what depends on the clock."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    return [{k: v for k, v in entry.items() if k != "images_per_s"} for entry in steps]


def equal(one: dict, other: dict) -> bool:
    """Whether two sets of tensors hold the same bits under the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def weights(folder: Path, part: str = "unet") -> dict:
    import safetensors.torch

    return safetensors.torch.load_file(folder / part / "diffusion_pytorch_model.safetensors")


assert diffusers  # imported here once, so that no test is charged for it
