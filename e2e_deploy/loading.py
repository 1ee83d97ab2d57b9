"""From a checked checkpoint to a SingleStepModel: every key and shape is compared before a weight is read."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2e_deploy.checkpoint import Checkpoint, read_header
from e2e_deploy.errors import CheckpointError
from e2e_deploy.model import SingleStepModel, x0_coefficients
from e2e_deploy.optional import require

# Attention projections in VAEs saved before diffusers 0.18; diffusers renames them while loading.
_OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _modern(key: str) -> str:
    for old, new in _OLD_NAMES.items():
        key = key.replace(old, new)
    return key


def compare_weights(file: Path, expected: Mapping[str, Tensor]) -> None:
    """Check that ``file`` holds exactly the keys and shapes of ``expected``.

    Raises:
        CheckpointError: names the first missing key, unknown key or differing shape.
    """
    present = {_modern(key): shape for key, (_, shape) in read_header(file).items()}
    missing = [key for key in expected if key not in present]
    if missing:
        raise CheckpointError(
            f"{file} lacks {len(missing)} weights its config.json asks for, the first is {missing[0]!r}"
        )
    unknown = [key for key in present if key not in expected]
    if unknown:
        raise CheckpointError(
            f"{file} holds {len(unknown)} weights its config.json knows nothing of, the first is {unknown[0]!r}"
        )
    for key, tensor in expected.items():
        if present[key] != tuple(tensor.shape):
            raise CheckpointError(
                f"{file}: {key!r} has shape {list(present[key])}, config.json asks for {list(tensor.shape)}"
            )


def _load_part(checkpoint: Checkpoint, part: str, model_class: Any) -> Any:
    config = checkpoint.unet if part == "unet" else checkpoint.vae
    try:
        with torch.device("meta"):
            empty = model_class.from_config(config)
    except (ValueError, TypeError, NotImplementedError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path / part / 'config.json'} describes no {model_class.__name__}: {_one_line(error)}"
        ) from None
    file = checkpoint.weight_file(part)
    compare_weights(file, empty.state_dict())
    variant = "fp16" if file.name.endswith(".fp16.safetensors") else None
    model = model_class.from_pretrained(
        checkpoint.path,
        subfolder=part,
        use_safetensors=True,
        variant=variant,
        torch_dtype=torch.float32,
        local_files_only=True,
    )
    return model.requires_grad_(False).eval()


def encode_empty_prompt(path: Path, *, variant: str | None = None) -> Tensor:
    """The empty prompt through the checkpoint's text encoder: [1, 2, C] float32, the tokens BOS and EOS.

    Raises:
        CheckpointError: tokenizer or text encoder is missing or does not load.
    """
    transformers = require("transformers", "export")
    transformers.utils.logging.disable_progress_bar()  # twenty small tensors need no bar
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(
            path, subfolder="tokenizer", local_files_only=True
        )
        encoder, report = transformers.CLIPTextModel.from_pretrained(
            path,
            subfolder="text_encoder",
            use_safetensors=True,
            variant=variant,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, tokenizers, safetensors or the hub library
        raise CheckpointError(
            f"the tokenizer or text encoder in {path} does not load: {_one_line(error)}"
        ) from error
    if missing := sorted(report["missing_keys"]):  # transformers would fill them at random
        raise CheckpointError(
            f"{path / 'text_encoder'} lacks {len(missing)} weights its config.json asks for, "
            f"the first is {missing[0]!r}"
        )
    ids = tokenizer(
        "", padding="do_not_pad", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        context: Tensor = encoder.eval()(ids).last_hidden_state
    return context.detach().clone()


def terminal_alpha_bar(scheduler_config: Mapping[str, Any]) -> tuple[int, float]:
    """(T, alpha_bar at T) of a saved scheduler, T = num_train_timesteps - 1; its timestep spacing is never used.

    Raises:
        CheckpointError: the config describes no noise schedule, or one that clips latents.
    """
    diffusers = require("diffusers", "export")
    try:
        scheduler = diffusers.DDIMScheduler.from_config(dict(scheduler_config))
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"scheduler_config.json describes no noise schedule: {_one_line(error)}"
        ) from None
    for switch in ("clip_sample", "thresholding"):
        if scheduler_config.get(switch):
            raise CheckpointError(
                f"scheduler_config.json sets {switch}, which cuts off latents outside a range; depth and "
                "normals models are trained without: set it to false if that is true of this one"
            )
    timestep = int(scheduler.config.num_train_timesteps) - 1
    return timestep, float(scheduler.alphas_cumprod.double()[timestep])


def load_model(checkpoint: Checkpoint) -> SingleStepModel:
    """The checkpoint as a SingleStepModel in float32, eval mode, on the CPU, without gradients.

    Raises:
        CheckpointError: a missing or unknown key, a wrong shape, an unusable config.
    """
    diffusers = require("diffusers", "export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers warns about its own deprecated attributes
        timestep, alpha_bar = terminal_alpha_bar(checkpoint.scheduler)
        from_xt, from_output = x0_coefficients(
            str(checkpoint.scheduler.get("prediction_type", "epsilon")), alpha_bar
        )
        unet = _load_part(checkpoint, "unet", diffusers.UNet2DConditionModel)
        vae = _load_part(checkpoint, "vae", diffusers.AutoencoderKL)
        variant = "fp16" if ".fp16." in checkpoint.weight_file("text_encoder").name else None
        context_1LC = encode_empty_prompt(checkpoint.path, variant=variant)
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
        timestep=timestep,
        x0_from_xt=from_xt,
        x0_from_output=from_output,
        full_z_range=checkpoint.full_z_range,
    )
