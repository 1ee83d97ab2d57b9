"""The configs of a checkpoint: numbers where numbers belong, within ranges that a model can have.

Knows which keys of diffusers' and transformers' configs are numbers, and our own. What else stands there those
libraries judge.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from e2e_deploy.errors import CheckpointError
from e2e_deploy.kinds import KINDS as RESULTS
from e2e_deploy.names import CODER_HALVES, TINY_CODER, CoderClass, FamilyName, ResultKind, TaskName
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.records import Items, Limits, check_value

_CHANNELS, _MAX_RESOLUTION = 65536, 65536


def _whole(low: int, high: int) -> Any:
    return Annotated[int, Limits(low, high)]


def _each(kind: Any) -> Any:
    """One for every level, or a list with one a level; of transformers a level may have a list of its own."""
    return kind | list[kind | list[kind]]


def _list_of(kind: Any) -> Any:
    return list[kind]


_ONE = _whole(1, _CHANNELS)
_LAYERS = _each(_whole(1, 64))
_SCALE, _EPS = Annotated[float, Limits(1e-6, 1e6)], Annotated[float, Limits(1e-12, 1)]
_SHARE, _SHIFT = Annotated[float, Limits(0, 1)], Annotated[float, Limits(-1e6, 1e6)]

KINDS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "default_denoising_steps": _whole(1, 1000),
        "default_processing_resolution": _whole(0, _MAX_RESOLUTION),
        "scale_invariant": bool,
        "shift_invariant": bool,
        "use_full_z_range": bool,
    },
    "e2e_deploy.json": {"family": FamilyName, "task": TaskName, "note": str},
    "unet/config.json": {
        "in_channels": _ONE,
        "out_channels": _ONE,
        "block_out_channels": _each(_ONE),
        "layers_per_block": _LAYERS,
        "transformer_layers_per_block": _LAYERS,
        "reverse_transformer_layers_per_block": _LAYERS,
        "attention_head_dim": _each(_ONE),
        "num_attention_heads": _each(_ONE),
        "cross_attention_dim": _each(_ONE),
        "norm_num_groups": _ONE,
        "norm_eps": _EPS,
        "mid_block_scale_factor": _SCALE,
        "resnet_out_scale_factor": _SCALE,
        "freq_shift": _SHIFT,
        "dropout": _SHARE,
        "downsample_padding": _whole(0, 16),
        "conv_in_kernel": _whole(1, 31),
        "conv_out_kernel": _whole(1, 31),
        "time_embedding_dim": _ONE,
    },
    "vae/config.json": {
        "_class_name": CoderClass,
        "in_channels": _whole(3, 3),
        "out_channels": _whole(3, 3),
        "latent_channels": _ONE,
        "block_out_channels": _each(_ONE),
        "layers_per_block": _whole(1, 64),
        "norm_num_groups": _ONE,
        "scaling_factor": _SCALE,
        "shift_factor": _SHIFT,
    },
    "text_encoder/config.json": {
        "hidden_size": _ONE,
        "intermediate_size": _whole(1, 2**20),
        "num_hidden_layers": _whole(1, 128),
        "num_attention_heads": _ONE,
        "vocab_size": _whole(2, 2**24),
        "max_position_embeddings": _whole(2, 65536),
        "projection_dim": _ONE,
        "layer_norm_eps": _EPS,
    },
    "dpt_head_identity/config.json": {
        "neck_hidden_sizes": _each(_ONE),
        "fusion_hidden_size": _ONE,
    },
    "image_encoder/config.json": {
        "hidden_size": _ONE,
        "intermediate_size": _whole(1, 2**20),
        "num_hidden_layers": _whole(1, 128),
        "num_attention_heads": _ONE,
        "num_channels": _whole(3, 3),
        "image_size": _whole(1, 4096),
        "patch_size": _whole(1, 4096),
        "projection_dim": _ONE,
        "layer_norm_eps": _EPS,
    },
    "feature_extractor/preprocessor_config.json": {
        "image_mean": Annotated[_list_of(_SHARE), Items(3, "red, green and blue")],
        "image_std": Annotated[_list_of(_SCALE), Items(3, "red, green and blue")],
    },
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": _whole(1, 100_000),
        "original_inference_steps": _whole(1, 100_000),
        "timestep_scaling": _SCALE,
        "beta_start": _SHARE,
        "beta_end": _SHARE,
        "trained_betas": _each(_SHARE),
    },
}
_LEVELS = _list_of(_ONE)
_TINY_CODER = {
    "in_channels": _whole(3, 3),
    "out_channels": _whole(1, 3),
    "latent_channels": _ONE,
    "encoder_block_out_channels": _LEVELS,
    "decoder_block_out_channels": _LEVELS,
    "num_encoder_blocks": _list_of(_whole(0, 64)),
    "num_decoder_blocks": _list_of(_whole(0, 64)),
    "upsampling_scaling_factor": _whole(2, 2),
    "scaling_factor": _SCALE,
    "shift_factor": _SHIFT,
}
"""Keys of an AutoencoderTiny's config, where a VAE's is expected."""
KINDS["controlnet/config.json"] = KINDS["unet/config.json"] | {
    "conditioning_channels": _ONE,
    "conditioning_embedding_out_channels": Annotated[_list_of(_ONE), Items(4, "one a halving")],
}


def read_config(root: Path, name: str, *, like: str | None = None) -> dict[str, Any]:
    """The config ``name`` (``unet/config.json``) of the checkpoint at ``root``, checked as KINDS says.

    ``like`` is the name under which KINDS knows it, where it lies elsewhere.

    Raises:
        CheckpointError: missing, not JSON, or a value of another kind or outside its range.
    """
    path = root / name
    with suppress(PermissionError):  # read_json says what cannot be read
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: a checkpoint is a diffusers folder with this file"
            )
    # diffusers' DPMSolver schedulers write -Infinity.
    config = read_json(path, error=CheckpointError, with_infinity=name.startswith("scheduler/"))
    kinds = KINDS.get(like or name, {})
    if "_class_name" in kinds and config.get("_class_name") == TINY_CODER:
        kinds = _TINY_CODER
    for key, kind in kinds.items():
        # A null is always the library's default.
        if problem := check_value(kind | None, config.get(key), key):
            raise CheckpointError(f"{path}: {problem}")
    return config


def coder_levels(config: Mapping[str, Any]) -> int:
    """Levels of a VAE: it halves a picture's sides once fewer."""
    is_tiny = config.get("_class_name") == TINY_CODER
    widths = config.get("decoder_block_out_channels" if is_tiny else "block_out_channels")
    if widths is None:  # the library's default
        return 4 if is_tiny else 1
    return len(widths) if isinstance(widths, list) else 1


def check_coder(folder: Path, config: Mapping[str, Any], outputs: Iterable[ResultKind]) -> None:
    """Refuse a small VAE that the model could not use as diffusers' pipelines do; others have only one form.

    Args:
        folder: where it lies, for messages.
        config: its config.json, as ``read_config`` checked it.
        outputs: kinds of the results that are decoded.

    Raises:
        CheckpointError: its halves differ in levels, its latents are shifted, or its image has too few channels.
    """
    if config.get("_class_name") != TINY_CODER:
        return
    halves = [len(config.get(f"{half}_block_out_channels") or "four") for half in CODER_HALVES]
    if halves[0] != halves[1]:
        raise CheckpointError(
            f"{folder} shrinks pictures over {halves[0]} levels and grows them over {halves[1]}; expected as many"
        )
    if config.get("shift_factor"):
        raise CheckpointError(
            f"{folder} shifts its latents by {config['shift_factor']:g}, which the UNets of Stable Diffusion 1 and 2 "
            "do not: it belongs to another model, such as SD3 or FLUX"
        )
    channels = config.get("out_channels", 3)
    coloured = [name for name in outputs if RESULTS[name].channels == 3]
    if channels == 2 or (channels == 1 and coloured):
        what = coloured[0] if coloured else "result"
        raise CheckpointError(
            f"{folder} decodes to {channels} channel{'s' if channels > 1 else ''}; expected 3"
            f"{f' for {what}' if coloured else ' or 1'}"
        )
