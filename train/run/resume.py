"""Checkpoints of a running training: what must survive a kill, in files without pickle.

    <out>/checkpoints/step-00001000/state.json               step, counters, the config
                                    unet.safetensors         trained parts only (vae.safetensors too)
                                    optimizer.safetensors    AdamW's state, by parameter name
                                    shards/                  instead of both where speed.shard cuts them up

A folder appears by a rename after everything in it is on the disk, so each one that exists is whole.
Order, mirroring, noise and learning rate are functions of (seed, step): no generator state is kept.
Does not know: the loop, devices.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from e2e_deploy.errors import CheckpointError, E2EDeployError
from e2e_deploy.packages import require
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.records import CountOrZero, Limits, read_record
from e2e_deploy.system.whole_folder import whole_folder
from e2e_deploy.train.sharding.cut import placed
from e2e_deploy.train.sharding.slices import FOLDER as SHARDS
from e2e_deploy.train.sharding.slices import MOMENTS, read_shards, sizes_of

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
_PREFIX, _HIDDEN = "step-", ".step-"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataState:
    """What one data set of the mix was when the checkpoint was written."""

    images: CountOrZero
    sha256: str
    """``FolderDataset.fingerprint``."""


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is, and what happened on the way."""

    step: CountOrZero = 0
    """Optimizer steps done, skipped ones included; also the position in the data."""
    num_degenerate: CountOrZero = 0
    """Images that gave no loss: nothing valid, flat target or flat prediction."""
    num_nonfinite: CountOrZero = 0
    """Steps skipped because loss or gradient was NaN or infinite."""
    nonfinite_in_a_row: CountOrZero = 0
    num_bad: CountOrZero = 0
    """Samples that could not be read and were replaced."""
    scaler: dict[str, Annotated[float, Limits(0)]] = field(default_factory=dict)
    """State of the fp16 gradient scaler; empty for other precisions."""
    data: dict[str, DataState] = field(default_factory=dict)
    """The data sets by ``folder (split)``; empty in checkpoints of older versions."""
    shards: dict[str, CountOrZero] = field(default_factory=dict)
    """Bytes of the files in ``shards/``; empty where weights and moments are whole."""


def checkpoint_folders(root: Path) -> list[Path]:
    """Whole checkpoints below ``root``, oldest first; copies and other folders beside them are not ours."""
    ours = (path for path in root.glob(f"{_PREFIX}*") if re.fullmatch(r"step-\d{8,9}", path.name))
    return sorted(path for path in ours if path.is_dir())


def way_back(root: Path, *, bad_since: int, resumed_at: int) -> str:
    """Which checkpoint below ``root`` a run goes on from whose every step after ``bad_since`` gave NaN.

    Args:
        root: ``<out>/checkpoints``.
        bad_since: the last good step.
        resumed_at: the step of the checkpoint that this call began with, 0 for none.
    """
    folders = checkpoint_folders(root)
    if not folders:
        return "no checkpoint was written before"
    if bad_since == resumed_at > 0:
        return (
            f"no step since {folders[-1]} gave a number: delete that folder to go on from the checkpoint before it, "
            "if there is one"
        )
    return f"the run goes on from {folders[-1]}, the last checkpoint before"


def changed_data(before: Mapping[str, DataState], now: Mapping[str, DataState]) -> list[str]:
    """A sentence for every data set that is not what it was when the checkpoint was written."""
    sentences = []
    for name, state in now.items():
        was = before.get(name, state)
        if was == state:
            continue
        what = "dataset.toml or a file changed"
        if was.images != state.images:
            what = f"{was.images} images then, {state.images} now"
        sentences.append(
            f"{name} has changed since ({what}): the images that follow are not those of the run so far"
        )
    return sentences


def save_checkpoint(
    root: Path,
    progress: Progress,
    config: Mapping[str, Any],
    parts: Mapping[str, nn.Module],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    fill_shards: Callable[[Path], None] | None = None,
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
        fill_shards: writes weights and moments into this folder instead, with the other processes.

    Raises:
        E2EDeployError: it could not be written, for example because the disk is full; what was there
            before still is.
    """
    folder = root / _name(progress.step)
    if not folder.exists():
        for leftover in root.glob(f"{_HIDDEN}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with whole_folder(folder, _files) as partial:
                if fill_shards is None:
                    _fill(partial, parts, _optimizer_tensors(named_parameters, optimizer))
                else:
                    fill_shards(partial / SHARDS)
                progress.shards = sizes_of(partial / SHARDS) if fill_shards else {}
                state = {"schema": 1, "config": config, **asdict(progress)}
                text = json.dumps(state, indent=2) + "\n"
                (partial / STATE).write_text(text, encoding="utf-8")
                for file in partial.rglob("*"):
                    if file.is_file():
                        _to_disk(file)
        except E2EDeployError as error:
            whole = checkpoint_folders(root)
            there = f"the checkpoint {whole[-1].name} is whole" if whole else "there is none before"
            raise E2EDeployError(
                f"the checkpoint of step {progress.step} could not be written: {error}; {there}; free space and run it "
                "again to continue"
            ) from error
    for old in checkpoint_folders(root)[:-keep]:
        # Renamed first: a kill while deleting must not leave half a checkpoint under a whole name.
        doomed = old.with_name(f".{old.name}.old")
        os.replace(old, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return folder


def _fill(
    partial: Path, parts: Mapping[str, nn.Module], optimizer: Mapping[str, torch.Tensor]
) -> None:
    save_file = require("safetensors.torch", "export").save_file
    try:
        for name, part in parts.items():
            weights = {key: value.contiguous() for key, value in part.state_dict().items()}
            save_file(weights, partial / f"{name}.safetensors")
        save_file(optimizer, partial / OPTIMIZER)
    except require("safetensors", "export").SafetensorError as error:  # a full disk
        raise OSError(str(error)) from error


def _files(folder: Path) -> list[str]:
    """What an older folder of the same step would consist of; there is none where one is written."""
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]


def read_state(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and config table of a checkpoint.

    Raises:
        CheckpointError: ``state.json`` is missing or damaged.
    """
    try:
        state = read_json(folder / STATE, error=CheckpointError)
    except CheckpointError as error:
        raise _damaged(folder, str(error)) from None
    needed = {f.name for f in fields(Progress)} - {"data", "shards"} | {"config"}
    if lacking := sorted(needed - state.keys()):
        raise _damaged(folder, f"{STATE} lacks {', '.join(lacking)}")
    known = {f.name: state[f.name] for f in fields(Progress) if f.name in state}
    progress, problems = read_record(Progress, known)
    if progress is not None and folder.name != _name(progress.step):
        problems = [f"step is {progress.step}, which is not the folder's"]
    if not isinstance(state["config"], dict):
        problems.append("config is no table")
    if progress is None or problems:
        raise _damaged(folder, f"{STATE}: {'; '.join(problems)}")
    return progress, state["config"]


def load_weights(
    folder: Path,
    parts: Mapping[str, nn.Module],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    shards: Mapping[str, int] | None = None,
) -> None:
    """Put weights and optimizer state of a checkpoint into ``parts`` and ``optimizer``, whole or cut up.

    ``shards`` are those of its ``Progress``; where there are some, all processes take part.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the model.
    """
    safetensors_error = require("safetensors", "export").SafetensorError
    try:
        if shards:
            state = read_shards(folder / SHARDS, shards, named_parameters, optimizer)
        else:
            state = _read_whole(folder, parts, named_parameters)
    except (OSError, RuntimeError, ValueError, safetensors_error) as error:
        raise _damaged(folder, str(error)) from error
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read_whole(
    folder: Path,
    parts: Mapping[str, nn.Module],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
) -> dict[int, dict[str, torch.Tensor]]:
    """Weights into ``parts``; gives AdamW's state by number of the parameter."""
    load_file = require("safetensors.torch", "export").load_file
    weights = {name: load_file(folder / f"{name}.safetensors") for name in parts}
    tensors = load_file(folder / OPTIMIZER)
    state = _optimizer_state(tensors, named_parameters)
    for file, found in ((OPTIMIZER, tensors), *weights.items()):
        broken = [key for key, tensor in found.items() if not tensor.isfinite().all()]
        if broken:
            raise ValueError(f"{file} holds NaN or infinity in {broken[0]}")
    for name, part in parts.items():
        now = part.state_dict()
        part.load_state_dict(
            {
                key: placed(tensor, now[key]) if key in now else tensor
                for key, tensor in weights[name].items()
            }
        )
    return state


def load_scaler(folder: Path, state: Mapping[str, float], scaler: torch.amp.GradScaler) -> None:
    """Put the state of the fp16 gradient scaler back; CheckpointError if it is not one of this scaler's."""
    fresh = scaler.state_dict()
    if state.keys() != fresh.keys():
        raise _damaged(folder, f"{STATE} has the scaler's {sorted(state)}, not {sorted(fresh)}")
    scaler.load_state_dict({key: type(fresh[key])(value) for key, value in state.items()})


def _optimizer_state(
    tensors: Mapping[str, torch.Tensor], named_parameters: Sequence[tuple[str, nn.Parameter]]
) -> dict[int, dict[str, torch.Tensor]]:
    """AdamW's state by the number of the parameter; ValueError unless it fits.

    A parameter that never had a gradient has no state; one that has some has all of it.
    """
    shapes = {
        f"{name}/{quantity}": parameter.shape if quantity in MOMENTS else torch.Size()
        for name, parameter in named_parameters
        for quantity in ("step", *MOMENTS)
    }
    moved = {key.rpartition("/")[0] for key in tensors}
    needed = {key for key in shapes if key.rpartition("/")[0] in moved}
    wrong = sorted(tensors.keys() ^ needed)
    wrong += [key for key in needed & tensors.keys() if tensors[key].shape != shapes[key]]
    if wrong:
        raise ValueError(f"{OPTIMIZER} does not fit the model, first at {wrong[0]!r}")
    state: dict[int, dict[str, torch.Tensor]] = {}
    numbers = {name: i for i, (name, _) in enumerate(named_parameters)}
    for key, tensor in tensors.items():
        name, _, quantity = key.rpartition("/")
        if quantity in MOMENTS:
            tensor = placed(tensor, named_parameters[numbers[name]][1])
        state.setdefault(numbers[name], {})[quantity] = tensor
    return state


def _optimizer_tensors(
    named_parameters: Sequence[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{quantity}": tensor.contiguous()
        for name, parameter in named_parameters
        for quantity, tensor in optimizer.state.get(parameter, {}).items()
    }


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be continued from: {reason}; delete this folder to continue from the one "
        "before it"
    )
