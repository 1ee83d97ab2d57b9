"""e2e-tiny: the SD2 depth and normals architecture at a size for a laptop CPU.

The same diffusers classes as the full model, 5.2 million parameters, written as a complete diffusers folder that
diffusers.MarigoldDepthPipeline and MarigoldNormalsPipeline load. Two trained ones are in the package; with weights from
a seed it is a start for training and a model for tests.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.model.checkpoint import BUNDLED_TASKS, CARD
from e2e_deploy.names import DEFAULT_CODER
from e2e_deploy.packages import require
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.whole_folder import whole_folder

RESOLUTION = 320
UNTRAINED = "untrained weights"

VAE = {
    "block_out_channels": (16, 16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": RESOLUTION,
    "scaling_factor": 1.0,
}
UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (64, 96, 128),
    # SD2 also attends at its finest level; here that level would take a third of the time for the least context.
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (
        2,
        3,
        4,
    ),  # number of heads a level, as in SD2's configs: 32 channels each
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "sample_size": RESOLUTION // 8,
}
TEXT_ENCODER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 64,
    "max_position_embeddings": 77,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,  # the final DDIM step then returns x0 itself, so diffusers agrees to rounding
    "steps_offset": 1,
}


def write_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer with the 256 bytes, their word ends and the two special tokens; returns the vocabulary size."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [
        chr(256 + i) for i in range(len(others))
    ]  # CLIP's byte alphabet
    vocabulary = [
        *letters,
        *(letter + "</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return len(vocabulary)


def write_text_parts(folder: Path, shape: Mapping[str, int]) -> None:
    """tokenizer/ and text_encoder/ with random float32 weights; ``shape`` is CLIPTextConfig's, the vocabulary apart."""
    transformers = require("transformers", "export")
    size = write_tokenizer(folder / "tokenizer")
    tokens = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    config = transformers.CLIPTextConfig(vocab_size=size, **tokens, **shape)
    config.architectures = ["CLIPTextModel"]
    config.save_pretrained(folder / "text_encoder")
    state = transformers.CLIPTextModel(config).state_dict()
    require("safetensors.torch", "export").save_file(
        {key: value.contiguous() for key, value in state.items()},
        folder / "text_encoder" / "model.safetensors",
        metadata={"format": "pt"},
    )


def write_model_index(
    folder: Path,
    task: str,
    *,
    resolution: int = RESOLUTION,
    steps: int = 1,
    vae: str = DEFAULT_CODER,
) -> None:
    """model_index.json as diffusers' Marigold pipelines write it, without loading a pipeline."""
    index = {
        "_class_name": {"depth": "MarigoldDepthPipeline", "normals": "MarigoldNormalsPipeline"}[
            task
        ],
        "_diffusers_version": require("diffusers", "export").__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "prediction_type": task,
        "default_denoising_steps": steps,
        "default_processing_resolution": resolution,
    }
    if task == "depth":
        index |= {"scale_invariant": True, "shift_invariant": True}
    else:
        index |= {"use_full_z_range": True}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_tiny(folder: Path, task: str, seed: int) -> None:
    diffusers = require("diffusers", "export")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        diffusers.UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
        diffusers.AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        diffusers.DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        write_text_parts(folder, TEXT_ENCODER)
    write_model_index(folder, task)
    card = {"family": "marigold", "task": task, "note": UNTRAINED, "seed": seed}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _tiny_files(folder: Path) -> list[str]:
    """What another process wrote there meanwhile: the same weights."""
    if not (folder / CARD).is_file():
        raise UsageError(f"{folder} exists and is no e2e-tiny; choose another folder")
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def _check_same(folder: Path, task: str, seed: int) -> None:
    """UsageError where the e2e-tiny in ``folder`` says that it is another one."""
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    wanted = {"task": task, "seed": seed}
    there = {name: card.get(name, value) for name, value in wanted.items()}
    if there != wanted:
        raise UsageError(
            f"{folder} holds weights for {there['task']} from seed {there['seed']}, not for {task} from seed {seed}: "
            "delete it and what was made from it, or choose another folder"
        )


def build_tiny(folder: Path, task: str, *, seed: int = 0) -> Path:
    """Write e2e-tiny with weights from ``seed`` to ``folder`` and return it; float32, about 22 MB.

    The folder appears whole or not at all. An existing folder is left as it is.

    Raises:
        UsageError: an unknown task, or the existing folder is of another task or seed.
        E2EDeployError: the folder cannot be written, or the disk is full.
    """
    if task not in BUNDLED_TASKS:
        raise UsageError(f"e2e-tiny does {' or '.join(BUNDLED_TASKS)}, not {task!r}")
    if folder.exists():
        _check_same(folder, task, seed)
        return folder
    try:
        with whole_folder(folder, _tiny_files) as partial:
            _write_tiny(partial, task, seed)
    except require("safetensors", "export").SafetensorError as error:
        raise E2EDeployError(f"{folder} could not be written: {error}") from error
    return folder
