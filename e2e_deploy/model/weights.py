"""Weights on disk: which safetensors files hold a part's tensors, and what their headers say. No weight is read here.

A file is 8 bytes with the header's length, a JSON header, and the data without gaps
(https://huggingface.co/docs/safetensors). Large models come in shards with an index beside them, which names the
shard of every tensor, as diffusers and transformers write it. No torch here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from e2e_deploy.errors import CheckpointError
from e2e_deploy.names import CODER_HALVES, TINY_CODER
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import MAX_BYTES, parse_json, read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

MAX_LAYERS = 512
"""Residual layers and transformers on one side of a network, counted from above; SD2 has 16, SDXL 66."""

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32, "U32": 32} | {
    "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: its file, dtype (``F32``, ``F16`` ...) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The weights of one part, in one file or in shards.

    Attributes:
        files: safetensors files, in the order of their names.
        index: the file that names the shards; None for a single file.
        tensors: by name, as stored.
    """

    files: tuple[Path, ...]
    index: Path | None
    tensors: Mapping[str, Stored]

    @property
    def name(self) -> Path:
        """What errors call it: the file, or the index of the shards."""
        return self.index or self.files[0]


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name, after checking that the file is whole.

    Raises:
        CheckpointError: truncated, or not safetensors.
    """
    try:
        with open_regular(file) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_BYTES):
                raise ValueError(f"its header is said to have {length} bytes")
            header = parse_json(stream.read(length), "its header", error=CheckpointError)
        header.pop("__metadata__", None)
        ranges, tensors = [], {}
        for key, value in header.items():
            tensors[key], place = _entry(file, key, value)
            ranges.append(place)
    except (OSError, ValueError, CheckpointError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{file} is not a safetensors file: {reason}") from None
    end = 0
    for start, stop in sorted(ranges):
        if start != end:
            raise CheckpointError(
                f"{file} is damaged: the data of its tensors overlap or leave gaps"
            )
        end = stop
    if 8 + length + end != size:
        raise CheckpointError(
            f"{file} is truncated or damaged: it has {size} bytes and its header tells of {8 + length + end}"
        )
    return tensors


def _entry(file: Path, key: str, value: Any) -> tuple[Stored, tuple[int, int]]:
    """One line of a header and the range of its data; ValueError if it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"the entry of {key[:80]!r} is no object")
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{key[:80]!r} has a dtype that is none of {', '.join(_BITS)}")
    shape, place = (_whole_numbers(key, value, name) for name in ("shape", "data_offsets"))
    if len(place) != 2 or len(shape) > 16 or place[1] - place[0] != prod(shape) * _BITS[dtype] // 8:
        raise ValueError(f"the data of {key[:80]!r} do not have the size of its shape")
    return Stored(file, dtype, shape), (place[0], place[1])


def _whole_numbers(key: str, entry: Mapping[str, Any], name: str) -> tuple[int, ...]:
    numbers = entry.get(name)
    if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"the {name} of {key[:80]!r} is no list of whole numbers")
    return tuple(numbers)


def read_index(index: Path) -> Weights:
    """The weights whose shards ``index`` names.

    Raises:
        CheckpointError: no index; a shard that is missing, damaged or not a plain file name beside it; a tensor that
            is in another shard than the index says, in two, or in none.
    """
    table = read_json(index, error=CheckpointError).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map, which names the shard of every tensor")
    for shard in table.values():
        if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard):
            raise CheckpointError(f"{index} names a shard that is no plain file name beside it")
    files = tuple(index.parent / shard for shard in sorted(set(table.values())))
    tensors: dict[str, Stored] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, a shard that {index.name} names")
        for key, stored in read_header(file).items():
            if table.get(key) != file.name:
                raise CheckpointError(
                    f"{file} holds {key[:80]!r}, which {index.name} does not say is there"
                )
            tensors[key] = stored
    if lost := [key for key in table if key not in tensors]:
        raise CheckpointError(
            f"{index} names {len(lost)} tensors that their shards do not hold, the first is {lost[0][:80]!r}"
        )
    return Weights(files, index, tensors)


def find_weights(folder: Path, stem: str) -> Weights:
    """The weights called ``stem`` in ``folder``, float32 before their fp16 variant; each in one file or in shards.

    Raises:
        CheckpointError: none is there (says so when a pickle is there instead), one is damaged, or a file and shards
            are there of the same weights.
    """
    for single, shards in (
        (f"{stem}.safetensors", f"{stem}.safetensors.index.json"),
        (f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"),
    ):
        file, index = folder / single, folder / shards
        if file.is_file() and index.is_file():
            raise CheckpointError(
                f"{folder} holds its weights twice, in {single} and in the shards of {shards}; remove those that "
                "are not meant"
            )
        if index.is_file():
            return read_index(index)
        if file.is_file():
            return Weights((file,), None, read_header(file))
    pickles = (
        [f for f in sorted(folder.glob("*")) if f.suffix in PICKLES] if folder.is_dir() else []
    )
    if pickles:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which can run code when it is read; convert it where you trust it: "
            f'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{pickles[0].name}', weights_only=True), '{stem}.safetensors')\""
        )
    raise CheckpointError(f"{folder / stem}.safetensors is missing, and so is an index of shards")


def check_layers(config: Mapping[str, Any], weights: Weights) -> None:
    """Compare how deep ``config`` is with what is stored: every layer has several tensors.

    Libraries would build a million layers before anything is compared.

    Raises:
        CheckpointError: it asks for more layers than there can be.
    """
    count, limit = _most_layers(config), min(MAX_LAYERS, len(weights.tensors))
    if count > limit:
        raise CheckpointError(
            f"the config.json of {weights.name} asks for up to {count} layers; expected at most {limit}, with "
            f"{len(weights.tensors)} tensors"
        )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _most_layers(config: Mapping[str, Any]) -> int:
    """Layers of a network if every level had as many as the largest."""

    def most(key: str) -> int:
        return max((n for n in _leaves(config.get(key)) if n is not None), default=1)

    if config.get("_class_name") == TINY_CODER:
        halves: list[list[int]] = [config.get(f"num_{half}_blocks") or [] for half in CODER_HALVES]
        return max(len(blocks) + sum(blocks) for blocks in halves)
    levels = config.get("block_out_channels")
    if not isinstance(levels, list):
        return most("num_hidden_layers")
    transformers = most("transformer_layers_per_block")
    return len(levels) * most("layers_per_block") * (1 + transformers)
