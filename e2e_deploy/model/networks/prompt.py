"""The constant prompt as the UNet reads it: the checkpoint's own tokenizer and text encoder."""

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.families import STORED_PROMPT
from e2e_deploy.model.networks.parts import compare_weights, described_by, one_line, read_weights
from e2e_deploy.packages import require
from e2e_deploy.system.files import read_bytes, read_npy_header

MAX_TOKENS = 77
"""Of CLIP's text encoders."""
MAX_PROMPT_BYTES = 2**24


def encode_prompt(checkpoint: Checkpoint, text: str = "") -> Tensor:
    """``text`` through the checkpoint's text encoder, [1, L, C] float32; the empty one is the tokens BOS and EOS.

    Of a family that pads it, L is 77. Of a checkpoint that stores it instead, [1, L, C] with the tokens there are.

    Raises:
        CheckpointError: tokenizer or text encoder is missing, does not load, or gives no finite numbers.
    """
    if checkpoint.identity.has(STORED_PROMPT):
        return _stored_prompt(checkpoint.path / STORED_PROMPT)
    transformers = require("transformers", "export")
    transformers.utils.logging.disable_progress_bar()  # twenty small tensors need no bar
    ids_1L = _token_ids(checkpoint, transformers.CLIPTokenizer, text)
    weights, model_class = checkpoint.weights["text_encoder"], transformers.CLIPTextModel
    with described_by(checkpoint, "text_encoder", model_class):
        config = transformers.CLIPTextConfig.from_dict(dict(checkpoint.configs["text_encoder"]))
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    compare_weights(
        weights, expected, rename=lambda key: key.removeprefix("text_model."), exact=False
    )
    state = read_weights(weights)
    with described_by(checkpoint, "text_encoder", model_class), torch.no_grad():
        encoder = model_class.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        )
        context: Tensor = encoder.eval()(ids_1L).last_hidden_state.detach().clone()
    if not context.isfinite().all():
        raise CheckpointError(
            f"{checkpoint.path / 'text_encoder'} gives NaN or infinite numbers for the prompt {text!r}"
        )
    return context


def _token_ids(checkpoint: Checkpoint, tokenizer_class: Any, text: str) -> Tensor:
    """Token ids [1, L] of ``text`` between BOS and EOS."""
    folder, pads = checkpoint.path / "tokenizer", checkpoint.identity.family.pads_prompt
    try:
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        ids_1L: Tensor = tokenizer(
            text,
            padding="max_length" if pads else "do_not_pad",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).input_ids
    except Exception as error:  # of transformers, tokenizers or the hub library
        raise CheckpointError(
            f"the tokenizer in {folder} does not load: {one_line(error)}"
        ) from error
    size = checkpoint.configs["text_encoder"].get("vocab_size")
    few, most = (3, MAX_TOKENS) if text else (2, 2)
    if pads:
        few = most = MAX_TOKENS
    is_right = ids_1L.ndim == 2 and few <= ids_1L.shape[-1] <= most
    if not is_right or not isinstance(size, int) or int(ids_1L.max()) >= size:
        prompt = "the prompt " + repr(text) if text else "the empty prompt"
        expected = "two" if most == 2 else f"{'' if few == most else 'up to '}{most}"
        raise CheckpointError(
            f"the tokenizer in {folder} makes {ids_1L.tolist()} of {prompt}; expected {expected} tokens, below the "
            f"text encoder's vocab_size of {size}"
        )
    return ids_1L


def _stored_prompt(file: Path) -> Tensor:
    """[1, L, C] float32 of a NumPy file with [L, C] or [1, L, C] finite floating-point numbers, 1 to 77 tokens.

    Raises:
        CheckpointError: it is another file.
    """
    expected = f"expected floating-point numbers [L, C] or [1, L, C], at most {MAX_TOKENS} tokens"
    try:
        content = read_bytes(file, MAX_PROMPT_BYTES)
        stream = BytesIO(content)
        # Read by hand, so that a header cannot ask for more memory than the file has.
        shape, is_fortran, dtype = read_npy_header(stream)
        if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
            raise ValueError(f"{list(shape)} numbers of {dtype} do not fill it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise CheckpointError(f"{file} is no NumPy file: {reason}; {expected}") from None
    *batch, tokens, width = shape if len(shape) > 1 else (0, 0)
    if batch not in ([], [1]) or not 1 <= tokens <= MAX_TOKENS or not width or dtype.kind != "f":
        raise CheckpointError(f"{file} holds {dtype} {list(shape)}; {expected}")
    stored = np.frombuffer(content, dtype, offset=stream.tell())
    stored = stored.reshape(shape, order="F" if is_fortran else "C").astype(np.float32)
    context = torch.from_numpy(stored.reshape(1, tokens, width))
    if not context.isfinite().all():
        raise CheckpointError(f"{file} holds NaN or infinite numbers")
    return context
