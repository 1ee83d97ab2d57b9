"""Checkpoints of a running training: what must survive a kill, in files without pickle.

    <out>/checkpoints/step-00001000/state.json               step, counters, the config
                                    unet.safetensors         trained parts only (vae.safetensors too)
                                    optimizer.safetensors    AdamW's state, by parameter name

A folder appears by a rename after everything in it is on the disk, so each one that exists is whole.
Order, mirroring, noise and learning rate are functions of (seed, step): no generator state is kept.
Does not know: the loop, devices.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from e2e_deploy.errors import CheckpointError, E2EDeployError
from e2e_deploy.json_files import read_json
from e2e_deploy.optional import require

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
_PREFIX, _PARTIAL = "step-", ".partial-"


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is, and what happened on the way."""

    step: int = 0
    """Optimizer steps done, skipped ones included; also the position in the data."""
    num_degenerate: int = 0
    """Images that gave no loss: nothing valid, flat target or flat prediction."""
    num_nonfinite: int = 0
    """Steps skipped because loss or gradient was NaN or infinite."""
    nonfinite_in_a_row: int = 0
    num_bad: int = 0
    """Samples that could not be read and were replaced."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the fp16 gradient scaler; empty for other precisions."""


def checkpoint_folders(root: Path) -> list[Path]:
    """Whole checkpoints below ``root``, oldest first."""
    return sorted(path for path in root.glob(f"{_PREFIX}*") if path.is_dir())


def save_checkpoint(
    root: Path,
    progress: Progress,
    config: Mapping[str, Any],
    parts: Mapping[str, nn.Module],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of ``progress.step``, then remove all but the newest ``keep``.

    Args:
        root: ``<out>/checkpoints``.
        progress: goes into ``state.json``.
        config: plain table of the run's config.
        parts: trained modules by name.
        named_parameters: the optimizer's parameters in its order.
        optimizer: with a single parameter group.
        keep: 1 or more.

    Raises:
        E2EDeployError: it could not be written, for example because the disk is full; what was there
            before still is.
    """
    save_file = require("safetensors.torch", "export").save_file
    safetensors_error = require("safetensors", "export").SafetensorError
    folder = root / f"{_PREFIX}{progress.step:08d}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = root / f"{_PARTIAL}{progress.step:08d}"
        try:
            partial.mkdir()
            for name, part in parts.items():
                weights = {key: value.contiguous() for key, value in part.state_dict().items()}
                save_file(weights, partial / f"{name}.safetensors")
            save_file(_optimizer_tensors(named_parameters, optimizer), partial / OPTIMIZER)
            state = {"schema": 1, "config": config, **asdict(progress)}
            (partial / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            for file in partial.iterdir():
                _to_disk(file)
            os.replace(partial, folder)
        except (OSError, safetensors_error) as error:
            shutil.rmtree(partial, ignore_errors=True)
            whole = checkpoint_folders(root)
            there = f"the checkpoint {whole[-1].name} is whole" if whole else "there is none before"
            raise E2EDeployError(
                f"the checkpoint of step {progress.step} could not be written to {root}: {error}; "
                f"{there}; free space and run the same command to continue"
            ) from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    for old in checkpoint_folders(root)[:-keep]:
        # Renamed first: a kill while deleting must not leave half a checkpoint under a whole name.
        doomed = root / f"{_PARTIAL}{old.name}"
        os.replace(old, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return folder


def read_state(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and config table of a checkpoint.

    Raises:
        CheckpointError: ``state.json`` is missing or damaged.
    """
    state = read_json(folder / STATE, error=CheckpointError)
    try:
        progress = Progress(**{f.name: state[f.name] for f in fields(Progress)})
        return progress, dict(state["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"{STATE} lacks {error}") from None


def load_weights(
    folder: Path,
    parts: Mapping[str, nn.Module],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put weights and optimizer state of a checkpoint into ``parts`` and ``optimizer``.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the model.
    """
    load_file = require("safetensors.torch", "export").load_file
    safetensors_error = require("safetensors", "export").SafetensorError
    try:
        for name, part in parts.items():
            part.load_state_dict(load_file(folder / f"{name}.safetensors"))
        tensors = load_file(folder / OPTIMIZER)
    except (OSError, RuntimeError, safetensors_error) as error:
        raise _damaged(folder, str(error)) from error
    numbers = {name: i for i, (name, _) in enumerate(named_parameters)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in numbers:
            raise _damaged(folder, f"{OPTIMIZER} knows a parameter {name!r} the model lacks")
        state.setdefault(numbers[name], {})[quantity] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _optimizer_tensors(
    named_parameters: Sequence[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{quantity}": tensor.contiguous()
        for name, parameter in named_parameters
        for quantity, tensor in optimizer.state.get(parameter, {}).items()
    }


def _to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be continued from: {reason}; delete this folder to continue from the one "
        "before it"
    )
