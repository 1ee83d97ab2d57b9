"""Weights and moments of a checkpoint in slices, one file a process: torch.distributed.checkpoint's, in safetensors.

    <checkpoint>/shards/shard-00001-model-00001-of-00001.safetensors    with where each slice belongs

Nothing in it is a pickle, which torch's own storage has. Any number of processes reads them, sharded or not.
Knows: the slices. Does not know: steps, configs, when to save.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_slices

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.packages import require
from e2e_deploy.train.sharding.cut import local

FOLDER = "shards"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, each of its parameter's shape; beside them it counts a parameter's steps."""

NamedParameters = Sequence[tuple[str, nn.Parameter]]


def write_shards(
    folder: Path, named_parameters: NamedParameters, optimizer: torch.optim.Optimizer
) -> None:
    """Write what this process has into ``folder``; all processes take part, and fail together.

    Raises:
        OSError: one could not write.
    """
    state: dict[str, Tensor] = {name: parameter.detach() for name, parameter in named_parameters}
    for name, parameter in named_parameters:
        for quantity, value in optimizer.state.get(parameter, {}).items():
            state[f"{name}/{quantity}"] = value
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save_slices(state, storage_writer=writer)
    except CheckpointException as error:
        raise OSError(_first(error)) from error


def save_together(
    accelerator: Any,
    named_parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
    save: Callable[[Callable[[Path], None]], object],
) -> None:
    """Let the first process ``save`` a checkpoint, and all fill its folder of slices, which ``save`` is given.

    Raises:
        E2EDeployError: as of ``save``; in the other processes, that it came to nothing.
    """
    broadcast = require("accelerate", "train").utils.broadcast_object_list
    if not accelerator.is_main_process:
        (folder,) = broadcast([None])
        try:
            if folder is not None:
                write_shards(Path(folder), named_parameters, optimizer)
        except OSError as error:
            raise E2EDeployError(f"a checkpoint could not be written: {error}") from error
        return
    is_told = False

    def fill(folder: Path) -> None:
        nonlocal is_told
        folder.mkdir()
        is_told = True
        broadcast([str(folder)])
        write_shards(folder, named_parameters, optimizer)

    try:
        save(fill)
    finally:
        if not is_told:  # there is one, or none could be begun: the others wait for a word
            broadcast([None])


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of every file of slices, by name: one that is missing must not look like a smaller tensor."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def read_shards(
    folder: Path,
    sizes: Mapping[str, int],
    named_parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
) -> dict[int, dict[str, Tensor]]:
    """Put the weights into the parameters, cut up or whole; gives AdamW's state by number of the parameter.

    All processes take part.

    Args:
        folder: as ``write_shards`` filled it.
        sizes: what ``sizes_of`` said then.
        named_parameters: of the model, in the optimizer's order.
        optimizer: whose state it is.

    Raises:
        OSError, ValueError: a file is missing, damaged, or does not fit the model.
    """
    if not folder.is_dir() or sizes_of(folder) != dict(sizes):
        raise ValueError(f"{folder.name} does not hold the {len(sizes)} files that were written")
    reader = HuggingFaceStorageReader(str(folder))
    try:
        stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
        wanted = _wanted(set(stored), named_parameters)
        for key, tensor in wanted.items():
            if stored[key].size != tensor.shape:
                raise ValueError(f"{key!r} has another shape than the model's")
        load(wanted, storage_reader=reader)
    except CheckpointException as error:
        raise ValueError(_first(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder.name} has slices that belong nowhere ({error})") from error
    for key, tensor in wanted.items():
        if not local(tensor).isfinite().all():
            raise ValueError(f"{folder.name} holds NaN or infinity in {key}")
    state: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(named_parameters):
        found = {
            quantity: wanted[f"{name}/{quantity}"]
            for quantity in ("step", *MOMENTS)
            if f"{name}/{quantity}" in wanted
        }
        if found:
            state[number] = found
    return state


def _wanted(stored: set[str], named_parameters: NamedParameters) -> dict[str, Tensor]:
    """Tensors to read into, by key; a parameter that never had a gradient has no moments."""
    wanted: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        wanted[name] = parameter.detach()
        if any(f"{name}/{quantity}" in stored for quantity in ("step", *MOMENTS)):
            wanted[f"{name}/step"] = torch.zeros((), device=parameter.device)
            wanted |= {f"{name}/{each}": torch.zeros_like(parameter.detach()) for each in MOMENTS}
    if wrong := sorted(stored ^ wanted.keys()):
        raise ValueError(f"{FOLDER} does not fit the model, first at {wrong[0]!r}")
    return wanted


def _first(error: CheckpointException) -> str:
    """What the first of the processes that failed says."""
    failure, _ = next(iter(error.failures.values()))
    return f"{failure}"
