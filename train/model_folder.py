"""The result of a run: a complete diffusers folder that pipelines and exporters open.

Knows: which files make one, and the facts that are written beside them. Does not know: the loop.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from e2e_deploy.checkpoint import CARD, Checkpoint
from e2e_deploy.model import SingleStepModel
from e2e_deploy.optional import require
from e2e_deploy.tiny import write_model_index

# What makes stock pipelines give this model's result in one step: t = T, and x0 itself as the sample.
SCHEDULER = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}


def write_model(
    folder: Path,
    model: SingleStepModel,
    start: Checkpoint,
    *,
    resolution: int,
    trained: Mapping[str, Any],
) -> Path:
    """Write ``model`` as a diffusers folder, float32; it appears whole, in place of an older one.

    Args:
        folder: to write.
        model: trained; task and family are taken from it.
        start: the checkpoint it was trained from: text encoder, tokenizer and schedule are taken over.
        resolution: default processing resolution, longest edge in pixels.
        trained: facts for the card ``e2e_deploy.json``; plain JSON values.
    """
    diffusers = require("diffusers", "export")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers warns about its own deprecated attributes
            for name in ("unet", "vae"):
                getattr(model, name).save_pretrained(partial / name)
                _without_origin(partial / name / "config.json")
            scheduler = diffusers.DDIMScheduler.from_config(dict(start.scheduler), **SCHEDULER)
            scheduler.save_pretrained(partial / "scheduler")
        _copy_text_parts(start, partial)
        write_model_index(partial, model.task, resolution=resolution)
        card = {"family": model.family.name, "task": model.task, "note": "", "trained": trained}
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _without_origin(config: Path) -> None:
    """Drop the folder the weights were loaded from: it means nothing elsewhere."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _copy_text_parts(start: Checkpoint, partial: Path) -> None:
    """Tokenizer and text encoder of the start; half weights become float32, so one name fits all."""
    tensors = require("safetensors.torch", "export")
    shutil.copytree(start.path / "tokenizer", partial / "tokenizer")
    (partial / "text_encoder").mkdir()
    shutil.copy(start.path / "text_encoder" / "config.json", partial / "text_encoder")
    weights = tensors.load_file(start.weight_file("text_encoder"))
    floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    target = partial / "text_encoder" / "model.safetensors"
    tensors.save_file(floats, target, metadata={"format": "pt"})
    _same_dtype(partial / "text_encoder" / "config.json")


def _same_dtype(config: Path) -> None:
    values = json.loads(config.read_text(encoding="utf-8"))
    name = str(torch.float32).removeprefix("torch.")
    values |= {key: name for key in ("torch_dtype", "dtype") if key in values}
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
