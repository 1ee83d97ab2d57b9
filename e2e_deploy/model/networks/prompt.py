"""The empty prompt as the UNet reads it: the checkpoint's own tokenizer and text encoder."""

from typing import Any

import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.networks.parts import compare_weights, described_by, one_line, read_weights
from e2e_deploy.packages import require


def encode_empty_prompt(checkpoint: Checkpoint) -> Tensor:
    """The empty prompt through the checkpoint's text encoder: [1, 2, C] float32, the tokens BOS and EOS.

    Raises:
        CheckpointError: tokenizer or text encoder is missing, does not load, or gives no finite numbers.
    """
    transformers = require("transformers", "export")
    transformers.utils.logging.disable_progress_bar()  # twenty small tensors need no bar
    ids_1L = _empty_prompt(checkpoint, transformers.CLIPTokenizer)
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
            f"the tokenizer in {folder} does not load: {one_line(error)}"
        ) from error
    size = checkpoint.configs["text_encoder"].get("vocab_size")
    if ids_1L.shape != (1, 2) or not isinstance(size, int) or int(ids_1L.max()) >= size:
        raise CheckpointError(
            f"the tokenizer in {folder} makes {ids_1L.tolist()} of the empty prompt; expected two tokens, below the "
            f"text encoder's vocab_size of {size}"
        )
    return ids_1L
