"""From a checked checkpoint to a SingleStepModel: every key and shape is compared before a weight is read."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.schedule import last_step
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.model.weights import FLOATS, Stored, Weights
from e2e_deploy.packages import require

# Attention projections in VAEs saved before diffusers 0.18.
_OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def _one_line(error: BaseException) -> str:
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
            raise CheckpointError(f"{file} cannot be read: {_one_line(error)}") from None
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


def _load_part(checkpoint: Checkpoint, part: str, model_class: Any) -> Any:
    config = checkpoint.unet if part == "unet" else checkpoint.vae
    weights = checkpoint.weights[part]
    with _described_by(checkpoint, part, model_class):
        with torch.device("meta"):
            model = model_class.from_config(config)
        model.requires_grad_(False).eval()
    compare_weights(weights, model.state_dict())
    with _described_by(checkpoint, part, model_class):
        _walk(model)
    model.load_state_dict(read_weights(weights), assign=True)
    if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        raise CheckpointError(
            f"{checkpoint.path / part / 'config.json'} asks for values that are in no file"
        )
    return model


@contextmanager
def _described_by(checkpoint: Checkpoint, part: str, model_class: type) -> Iterator[None]:
    """What a library raises on a wrong config, of whatever kind, as one sentence that names the config."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.path / part / 'config.json'} describes no {model_class.__name__}: {_one_line(error)}"
        ) from None


def _walk(model: Any) -> None:
    """Run a UNet or VAE without its numbers: what does not fit together fails here, before gigabytes are read."""
    config = model.config
    side = 2 ** len(config.block_out_channels)
    with torch.no_grad(), torch.device("meta"):
        given = torch.empty(1, config.in_channels, side, side)
        if hasattr(model, "decode"):
            latent = model.encode(given).latent_dist.mean
            result = model.decode(latent, return_dict=False)[0]
        else:
            result = model(given, 1, torch.empty(1, 2, config.cross_attention_dim)).sample
    wanted = (1, config.out_channels, side, side)
    if result.shape != wanted:
        raise ValueError(f"its result has the shape {list(result.shape)}, not {list(wanted)}")


def encode_empty_prompt(checkpoint: Checkpoint) -> Tensor:
    """The empty prompt through the checkpoint's text encoder: [1, 2, C] float32, the tokens BOS and EOS.

    Raises:
        CheckpointError: tokenizer or text encoder is missing, does not load, or gives no finite numbers.
    """
    transformers = require("transformers", "export")
    transformers.utils.logging.disable_progress_bar()  # twenty small tensors need no bar
    ids_1L = _empty_prompt(checkpoint, transformers.CLIPTokenizer)
    weights, model_class = checkpoint.weights["text_encoder"], transformers.CLIPTextModel
    with _described_by(checkpoint, "text_encoder", model_class):
        config = transformers.CLIPTextConfig.from_dict(dict(checkpoint.text_encoder))
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    compare_weights(
        weights, expected, rename=lambda key: key.removeprefix("text_model."), exact=False
    )
    state = read_weights(weights)
    with _described_by(checkpoint, "text_encoder", model_class), torch.no_grad():
        encoder = model_class.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        )
        context: Tensor = encoder.eval()(ids_1L).last_hidden_state.detach().clone()
    if not context.isfinite().all():
        raise CheckpointError(
            f"{checkpoint.path / 'text_encoder'} gives NaN or infinite numbers for the empty prompt"
        )
    return context


def _empty_prompt(checkpoint: Checkpoint, tokenizer_class: Any) -> Tensor:
    """Token ids [1, 2] of the empty prompt: BOS and EOS."""
    folder = checkpoint.path / "tokenizer"
    try:
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        ids_1L: Tensor = tokenizer(
            "", padding="do_not_pad", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
    except Exception as error:  # of transformers, tokenizers or the hub library
        raise CheckpointError(
            f"the tokenizer in {folder} does not load: {_one_line(error)}"
        ) from error
    size = checkpoint.text_encoder.get("vocab_size")
    if ids_1L.shape != (1, 2) or not isinstance(size, int) or int(ids_1L.max()) >= size:
        raise CheckpointError(
            f"the tokenizer in {folder} makes {ids_1L.tolist()} of the empty prompt; expected two tokens, below the "
            f"text encoder's vocab_size of {size}"
        )
    return ids_1L


def load_model(checkpoint: Checkpoint) -> SingleStepModel:
    """The checkpoint as a SingleStepModel in float32, eval mode, on the CPU, without gradients.

    Raises:
        CheckpointError: a missing or unknown key, a wrong shape, an unusable config.
    """
    diffusers = require("diffusers", "export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers warns about its own deprecated attributes
        step = last_step(checkpoint.scheduler)
        unet = _load_part(checkpoint, "unet", diffusers.UNet2DConditionModel)
        vae = _load_part(checkpoint, "vae", diffusers.AutoencoderKL)
        context_1LC = encode_empty_prompt(checkpoint)
    width = unet.config.cross_attention_dim
    if context_1LC.shape[-1] != width:
        raise CheckpointError(
            f"the text encoder in {checkpoint.path} gives {context_1LC.shape[-1]} numbers a token, "
            f"the unet expects {width}"
        )
    return SingleStepModel(
        unet,
        vae,
        context_1LC,
        task=checkpoint.identity.task,
        family=checkpoint.identity.family,
        timestep=step.timestep,
        x0_from_xt=step.from_xt,
        x0_from_output=step.from_output,
        full_z_range=checkpoint.full_z_range,
    )
