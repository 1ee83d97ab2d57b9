"""A Stable-Diffusion-2-size checkpoint with random weights: the real architecture at its real size."""

import argparse
import json
import math
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.frames import parse_size
from e2e_deploy.model import tiny
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.progress import Stages, peak_memory_gib
from e2e_deploy.system.json_files import read_json

UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "sample_size": 96,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
SCHEDULER = tiny.SCHEDULER | {"set_alpha_to_one": False}
# SD2's text encoder has 23 layers; its output is a constant here, so one layer of its width will do.
TEXT_ENCODER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
}


def write_full_size(
    folder: Path, task: str = "depth", *, seed: int = 0, unet: Mapping[str, Any] | None = None
) -> Path:
    """Write the checkpoint (866 M + 84 M parameters, fp16 safetensors, 1.9 GB) unless it is there.

    ``unet`` changes its config.
    """
    if (folder / "model_index.json").is_file():
        return folder
    import diffusers

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float16)  # initialise at half the memory
        diffusers.UNet2DConditionModel(**UNET | dict(unet or {})).save_pretrained(folder / "unet")
        diffusers.AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        torch.set_default_dtype(torch.float32)
        diffusers.DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        tiny.write_text_parts(folder, TEXT_ENCODER)
    tiny.write_model_index(folder, task, resolution=768)
    return folder


TINY_CODER: dict[str, Any] = {
    "encoder_block_out_channels": (64, 64, 64, 64),
    "decoder_block_out_channels": (64, 64, 64, 64),
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
    "out_channels": 1,
}
"""TAESD's size; its last layer gives a depth map, as distillation for one writes it."""


def tiny_coder() -> Any:
    """That AutoencoderTiny with random weights, for inference."""
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diffusers.AutoencoderTiny(**TINY_CODER).eval().requires_grad_(False)


def with_tiny_coder(folder: Path, checkpoint: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint with the parts of another and a random AutoencoderTiny for its VAE, unless it is there."""
    if (folder / "model_index.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / part).exists():
            (folder / part).symlink_to((checkpoint / part).absolute())
    torch.manual_seed(seed)
    tiny_coder().save_pretrained(folder / "vae")
    index = read_json(checkpoint / "model_index.json") | {"vae": ["diffusers", "AutoencoderTiny"]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def made(
    folder: Path, write: Callable[..., object] = write_full_size, *, last: str = "model_index.json"
) -> Path:
    """The checkpoint's ``folder``; written, if needed, in a process of its own, whose memory does not count.

    ``last`` is the file that ``write`` writes last.

    Raises:
        SystemExit: it could not be made.
    """
    if not (folder / last).is_file():
        maker = multiprocessing.get_context("spawn").Process(target=write, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise SystemExit("the checkpoint could not be made")
    return folder


def full_size_checkpoint(work: Path) -> Path:
    """The folder of SD2's checkpoint below ``work``, made if needed."""
    return made(work / "checkpoint")


def count_parameters(checkpoint: Path) -> dict[str, int]:
    """Weights of the UNet and the VAE, from the headers of their files."""
    counts = {}
    for part in ("unet", "vae"):
        with safe_open(checkpoint / part / "diffusion_pytorch_model.safetensors", "pt") as file:
            counts[part] = sum(math.prod(file.get_slice(k).get_shape()) for k in file.keys())  # noqa: SIM118
    return counts


def options(description: str | None, precision: str) -> argparse.ArgumentParser:
    """What every full-size benchmark can be asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-full-size")
    parser.add_argument("--frame-size", default="480x640")
    parser.add_argument("--resolution", type=int, default=768)
    parser.add_argument("--precision", default=precision)
    return parser


def export(
    arguments: argparse.Namespace, stages: Stages, checkpoint: Path | None = None, **engines: Any
) -> Bundle:
    """The bundle of a checkpoint, SD2's if None, below ``--work``, as the other options say.

    ``engines`` are as in export_bundle.
    """
    name = "bundle" if checkpoint is None else checkpoint.name
    return export_bundle(
        open_checkpoint(full_size_checkpoint(arguments.work) if checkpoint is None else checkpoint),
        arguments.work / f"{name}-{arguments.precision}",
        frame_sizes=[parse_size(arguments.frame_size)],
        resolution=arguments.resolution,
        precision=arguments.precision,
        stages=stages,
        **{"engine": "onnx"} | engines,
    )


def exported(bundle: Bundle, checkpoint: Path, stages: Stages) -> dict[str, Any]:
    """What the result of an export says."""
    graph = bundle.manifest.graphs[0]
    return {
        "parameters": count_parameters(checkpoint),
        "frame_size": graph.frame_size,
        "processing_size": graph.processing_size,
        "precision": bundle.manifest.precision,
        "weights": "random",
        "stages": [vars(stage) for stage in stages.done],
        "seconds": sum(stage.seconds for stage in stages.done),
        "peak_gib": peak_memory_gib(),
        "bundle_bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
        "passes": [vars(entry) for entry in bundle.manifest.passes],
        "verification": [vars(entry) for entry in bundle.manifest.verification],
    }
