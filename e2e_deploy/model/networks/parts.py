"""From a checked checkpoint to one of its networks: every key and shape is compared before a weight is read."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.weights import FLOATS, Stored, Weights
from e2e_deploy.packages import require

# Attention projections in VAEs saved before diffusers 0.18.
_OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def one_line(error: BaseException) -> str:
    """What a library says, shortened, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _modern(key: str) -> str:
    for old, new in _OLD_NAMES.items():
        key = key.replace(old, new)
    return key


def compare_weights(
    weights: Weights,
    expected: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str] = _modern,
    exact: bool = True,
) -> None:
    """Check that ``weights`` are the keys and shapes of ``expected``, as floating-point numbers.

    Args:
        weights: as stored.
        expected: of a model without numbers, by their names today.
        rename: gives a stored key the name it has today.
        exact: nothing else may be there.

    Raises:
        CheckpointError: names the first missing key, unknown key, differing shape or type.
    """
    present: dict[str, Stored] = {}
    for key, stored in weights.tensors.items():
        if rename(key) in present:
            raise CheckpointError(f"{weights.name} holds {rename(key)[:80]!r} under two names")
        present[rename(key)] = stored
    missing = [key for key in expected if rename(key) not in present]
    if missing:
        raise CheckpointError(
            f"{weights.name} lacks {len(missing)} weights its config.json asks for, the first is {missing[0]!r}"
        )
    names = {rename(key) for key in expected}
    unknown = [key for key in present if key not in names]
    if unknown and exact:
        raise CheckpointError(
            f"{weights.name} holds {len(unknown)} weights its config.json knows nothing of, the first is "
            f"{unknown[0][:80]!r}"
        )
    for key, tensor in expected.items():
        stored = present[rename(key)]
        if stored.shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{stored.file}: {key!r} has shape {list(stored.shape)}, config.json asks for {list(tensor.shape)}"
            )
        if stored.dtype not in FLOATS:
            raise CheckpointError(
                f"{stored.file}: {key!r} is stored as {stored.dtype}; expected one of {', '.join(FLOATS)}"
            )


def read_weights(weights: Weights) -> dict[str, Tensor]:
    """The floating-point tensors as float32, by the names they have in diffusers today.

    Raises:
        CheckpointError: a weight is NaN or infinite, or a file cannot be read.
    """
    safetensors = require("safetensors", "export")
    tensors = {}
    for file in weights.files:
        try:
            with safetensors.safe_open(file, "pt") as stream:
                for key, stored in weights.tensors.items():
                    if stored.file != file or stored.dtype not in FLOATS:
                        continue
                    tensor = stream.get_tensor(key).float()
                    if tuple(tensor.shape) != stored.shape:
                        raise CheckpointError(f"{file} was changed while it was read: {key!r}")
                    _require_finite(tensor, f"{file}: {key!r}")
                    tensors[_modern(key)] = tensor
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from None
    return tensors


def _require_finite(tensor: Tensor, what: str) -> None:
    # The sum takes a twentieth of the time of isfinite, and is NaN or infinite where an element is.
    if not math.isfinite(tensor.sum()):
        count = int(tensor.numel() - torch.isfinite(tensor).sum())
        if count:
            raise CheckpointError(
                f"{what} holds {count} values that are NaN or infinite, of {tensor.numel()}; the file is damaged "
                "or its training failed: fetch it again, or take an earlier one"
            )


def load_part(
    checkpoint: Checkpoint,
    part: str,
    model_class: Any,
    *,
    walk: Callable[[Any], None] | None = None,
) -> Any:
    """The network ``part`` of a checkpoint in float32, eval mode, on the CPU, without gradients.

    Args:
        checkpoint: opened.
        part: folder of its config and weights.
        model_class: of diffusers, or one of our own with its ``from_config``.
        walk: runs it without its numbers, so that what does not fit together fails before gigabytes are read; the
            usual way of a UNet if None.

    Raises:
        CheckpointError: a missing or unknown key, a wrong shape, an unusable config.
    """
    config = checkpoint.configs[part]
    weights = checkpoint.weights[part]
    with described_by(checkpoint, part, model_class):
        with torch.device("meta"):
            model = model_class.from_config(config)
        model.requires_grad_(False).eval()
    compare_weights(weights, model.state_dict())
    with described_by(checkpoint, part, model_class):
        (walk or _walk)(model)
    model.load_state_dict(read_weights(weights), assign=True)
    if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        raise CheckpointError(
            f"{checkpoint.folder(part) / 'config.json'} asks for values that are in no file"
        )
    return model


@contextmanager
def described_by(checkpoint: Checkpoint, part: str, model_class: type) -> Iterator[None]:
    """What a library raises on a wrong config, of whatever kind, as one sentence that names the config."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.folder(part) / 'config.json'} describes no {model_class.__name__}: {one_line(error)}"
        ) from None


def _walk(model: Any) -> None:
    """Run a UNet without its numbers: what does not fit together fails here, before gigabytes are read."""
    config = model.config
    side = 2 ** len(config.block_out_channels)
    with torch.no_grad(), torch.device("meta"):
        given = torch.empty(1, config.in_channels, side, side)
        labels = None
        if config.class_embed_type == "projection":
            labels = torch.empty(1, config.projection_class_embeddings_input_dim)
        context = torch.empty(1, 2, config.cross_attention_dim)
        result = model(given, 1, context, class_labels=labels).sample
    wanted = (1, config.out_channels, side, side)
    if result.shape != wanted:
        raise ValueError(f"its result has the shape {list(result.shape)}, not {list(wanted)}")
