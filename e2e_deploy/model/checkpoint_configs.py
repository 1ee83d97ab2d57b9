"""The configs of a checkpoint: numbers where numbers belong, within ranges that a model can have.

Knows which keys of diffusers' and transformers' configs are numbers. What else stands there those libraries judge,
after a bound on the number of layers: they would build a million of them before anything is compared.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.weights import Weights
from e2e_deploy.system.json_files import read_json

MAX_LAYERS = 512
"""Residual layers and transformers on one side of a network, counted from above; SD2 has 16, SDXL 66."""

_CHANNELS, _MAX_RESOLUTION = 65536, 65536


@dataclass(frozen=True)
class Range:
    """What a number may be; where ``many``, each number of a list as well. A null is always the library's default."""

    low: float
    high: float
    whole: bool = True
    many: bool = False

    def __str__(self) -> str:
        kind = "whole number" if self.whole else "number"
        return f"a {kind} from {self.low:g} to {self.high:g}" + (" or a list of them" * self.many)


_ONE, _EACH = Range(1, _CHANNELS), Range(1, _CHANNELS, many=True)
_LAYERS = Range(1, 64, many=True)
_SCALE, _EPS = Range(1e-6, 1e6, whole=False), Range(1e-12, 1, whole=False)
_KERNEL, _SHIFT = Range(1, 31), Range(-1e6, 1e6, whole=False)

RANGES: dict[str, dict[str, Range]] = {
    "model_index.json": {"default_processing_resolution": Range(0, _MAX_RESOLUTION)},
    "unet/config.json": {
        "in_channels": _ONE,
        "out_channels": _ONE,
        "block_out_channels": _EACH,
        "layers_per_block": _LAYERS,
        "transformer_layers_per_block": _LAYERS,
        "reverse_transformer_layers_per_block": _LAYERS,
        "attention_head_dim": _EACH,
        "num_attention_heads": _EACH,
        "cross_attention_dim": _EACH,
        "norm_num_groups": _ONE,
        "norm_eps": _EPS,
        "mid_block_scale_factor": _SCALE,
        "resnet_out_scale_factor": _SCALE,
        "freq_shift": _SHIFT,
        "dropout": Range(0, 1, whole=False),
        "downsample_padding": Range(0, 16),
        "conv_in_kernel": _KERNEL,
        "conv_out_kernel": _KERNEL,
        "time_embedding_dim": _ONE,
    },
    "vae/config.json": {
        "in_channels": Range(3, 3),
        "out_channels": Range(3, 3),
        "latent_channels": _ONE,
        "block_out_channels": _EACH,
        "layers_per_block": Range(1, 64),
        "norm_num_groups": _ONE,
        "scaling_factor": _SCALE,
        "shift_factor": _SHIFT,
    },
    "text_encoder/config.json": {
        "hidden_size": _ONE,
        "intermediate_size": Range(1, 2**20),
        "num_hidden_layers": Range(1, 128),
        "num_attention_heads": _ONE,
        "vocab_size": Range(2, 2**24),
        "max_position_embeddings": Range(2, 65536),
        "projection_dim": _ONE,
        "layer_norm_eps": _EPS,
    },
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": Range(1, 100_000),
        "beta_start": Range(0, 1, whole=False),
        "beta_end": Range(0, 1, whole=False),
        "trained_betas": Range(0, 1, whole=False, many=True),
    },
}


def read_config(root: Path, name: str) -> dict[str, Any]:
    """The config ``name`` (``unet/config.json``) of the checkpoint at ``root``, its numbers checked.

    Raises:
        CheckpointError: missing, not JSON, or a number that is none or outside its range.
    """
    path = root / name
    with suppress(PermissionError):  # read_json says what cannot be read
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: a checkpoint is a diffusers folder with this file"
            )
    config = read_json(path, error=CheckpointError)
    for key, allowed in RANGES.get(name, {}).items():
        for value in _leaves(config.get(key), many=allowed.many):
            kinds = (int,) if allowed.whole else (int, float)
            if value is not None and (
                type(value) not in kinds or not allowed.low <= value <= allowed.high
            ):
                raise CheckpointError(
                    f"{path}: {key} is {shortened(config[key])}; expected {allowed}"
                )
    return config


def check_layers(config: Mapping[str, Any], weights: Weights) -> None:
    """Compare how deep ``config`` is with what is stored, before anything is built: every layer has several tensors.

    Raises:
        CheckpointError: it asks for more layers than there can be.
    """
    count, limit = _most_layers(config), min(MAX_LAYERS, len(weights.tensors))
    if count > limit:
        raise CheckpointError(
            f"the config.json of {weights.name} asks for up to {count} layers; expected at most {limit}, with "
            f"{len(weights.tensors)} tensors"
        )


def _leaves(value: Any, *, many: bool) -> Iterator[Any]:
    if many and isinstance(value, list):
        for item in value:
            yield from _leaves(item, many=True)
    else:
        yield value


def _most_layers(config: Mapping[str, Any]) -> int:
    """Layers of a network if every level had as many as the largest."""

    def most(key: str) -> int:
        return max((n for n in _leaves(config.get(key), many=True) if n is not None), default=1)

    levels = config.get("block_out_channels")
    if not isinstance(levels, list):
        return most("num_hidden_layers")
    transformers = most("transformer_layers_per_block")
    return len(levels) * most("layers_per_block") * (1 + transformers)
