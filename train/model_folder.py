"""The result of a run: a complete diffusers folder that pipelines and exporters open.

Knows: which files make one, and the facts that are written beside them. Does not know: the loop.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch

from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.model.checkpoint import CARD, DIFFUSERS_STEM, Checkpoint
from e2e_deploy.model.families import DPT_HEAD, STORED_PROMPT, Family
from e2e_deploy.model.networks.head_model import HeadModel
from e2e_deploy.model.networks.parts import read_weights
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.model.tiny import write_model_index
from e2e_deploy.packages import require
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.whole_folder import require_replaceable, whole_folder
from e2e_deploy.train.conv_in import zero_second_half
from e2e_deploy.train.head import write_head
from e2e_deploy.train.step.step import nonfinite_weight

PARTS = (
    *("unet", "unet_v2", "vae", DPT_HEAD, "scheduler"),
    *("text_encoder", "tokenizer", "image_encoder", "feature_extractor"),
)

# What makes stock pipelines give this model's result in one step: t = T, and x0 itself as the sample.
SCHEDULER = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
# No signal is left at any step, so that x0 is minus the output, whatever the start's schedule and prediction are.
GENPERCEPT_SCHEDULER = {
    "beta_start": 1.0,
    "beta_end": 1.0,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
}


def write_model(
    folder: Path,
    model: SingleStepModel,
    start: Checkpoint,
    *,
    resolution: int,
    trained: Mapping[str, Any],
    schedule: Mapping[str, Any] | None = None,
    steps: int = 1,
    note: str = "",
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Write ``model`` as a diffusers folder, float32; it appears whole, in place of an older one.

    Anything else at ``folder`` is kept under another name. A UNet with 4 input channels is written with 8, of which
    the second half is multiplied by zero: the result is the same, and diffusers' Marigold pipelines, which always
    feed noise, run it.

    Args:
        folder: to write.
        model: trained; task and family are taken from it.
        start: the checkpoint it was trained from: text encoder, tokenizer and schedule are taken over.
        resolution: default processing resolution, longest edge in pixels.
        schedule: what the result's schedule has beside the start's.
        steps: default denoising steps, of diffusers' pipelines.
        trained: facts for the card ``e2e_deploy.json``; plain JSON values.
        note: what must be said with every output of the model; empty when nothing.
        on_note: told what was kept, and where.

    Raises:
        E2EDeployError: a weight is NaN or infinite, the folder cannot be written, or the disk is full; an older model
            is still there.
    """
    trained_parts = {"unet": model.unet, "vae": model.vae}
    if isinstance(model, HeadModel):
        trained_parts["head"] = model.head
    if broken := nonfinite_weight(trained_parts):
        raise E2EDeployError(
            f"{broken} of the trained model is NaN or infinite: {folder} is not written"
        )
    diffusers = require("diffusers", "export")
    is_half = model.in_channels == model.latent_channels and 2 in model.family.latents
    _keep_what_is_not_ours(folder, on_note)
    with whole_folder(folder, model_files, on_note) as partial:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # diffusers warns about its own deprecated attributes
                with zero_second_half(model.unet) if is_half else nullcontext():
                    model.unet.save_pretrained(partial / model.family.unet_folder)
                _write_vae(model, start, partial)
                scheduler = diffusers.DDIMScheduler.from_config(
                    dict(start.scheduler), **schedule_of(model.family), **(schedule or {})
                )
                scheduler.save_pretrained(partial / "scheduler")
            _copy_other_parts(start, model.family, partial)
        except require("safetensors", "export").SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error
        write_index(partial, model, start, resolution=resolution, steps=steps)
        card = {"family": model.family.name, "task": model.task, "note": note, "trained": trained}
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return folder


def _write_vae(model: SingleStepModel, start: Checkpoint, partial: Path) -> None:
    """The VAE; with a head in the place of its decoder, which nobody reads then, the start's as it is."""
    if not isinstance(model, HeadModel):
        model.vae.save_pretrained(partial / "vae")
        return
    write_head(model, partial)
    _copy_part(start, "vae", partial, DIFFUSERS_STEM)


def schedule_of(family: Family) -> dict[str, Any]:
    """What makes stock pipelines, and recognition, take the result for what it is."""
    if family.latents == (1,):  # GenPercept
        return GENPERCEPT_SCHEDULER
    return SCHEDULER


def write_index(
    folder: Path, model: SingleStepModel, start: Checkpoint, *, resolution: int, steps: int
) -> None:
    """model_index.json of the pipeline that runs the model."""
    if model.task == "geometry":
        index = read_json(start.path / "model_index.json")
        index |= {"default_processing_resolution": resolution}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        return
    if model.family.name == "marigold":
        vae = type(model.vae).__name__
        write_model_index(folder, model.task, resolution=resolution, steps=steps, vae=vae)
        return
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": require("diffusers", "export").__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(model.vae).__name__],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "default_processing_resolution": resolution,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def model_files(root: Path) -> list[str]:
    """Names of the files of the model that was written to ``root``, the card last.

    Raises:
        UsageError: no model of this toolkit is there.
    """
    try:
        if "trained" not in read_json(root / CARD):
            raise InputError(f"{CARD} tells of no training")
    except InputError as error:
        raise UsageError(f"{root} exists and is no trained model: {error}") from None
    folders = [root / part for part in PARTS if not (root / part).is_symlink()]
    files = [file for folder in folders for file in folder.glob("*") if file.is_file()]
    single = [name for name in (STORED_PROMPT,) if (root / name).is_file()]
    return [
        *(file.relative_to(root).as_posix() for file in files),
        *single,
        "model_index.json",
        CARD,
    ]


def _keep_what_is_not_ours(folder: Path, on_note: Callable[[str], None]) -> None:
    """Move aside what is in the way; a trained model must not be lost to it."""
    try:
        require_replaceable(folder, model_files)
    except UsageError as reason:
        names = (folder.with_name(f"{folder.name}-kept-{n}") for n in count(1))
        kept = next(name for name in names if not os.path.lexists(name))
        try:
            os.rename(folder, kept)
        except OSError as error:
            raise E2EDeployError(f"the model could not be written: {reason}; {error}") from None
        on_note(f"{kept} is what was in the way: {reason}")


def _copy_other_parts(start: Checkpoint, family: Family, partial: Path) -> None:
    """What is not trained; half weights become float32, so that one name fits all."""
    if start.identity.has(STORED_PROMPT):
        shutil.copy(start.path / STORED_PROMPT, partial)
        return
    for file in family.files:
        (partial / file).parent.mkdir(exist_ok=True)
        shutil.copy(start.path / file, partial / file)
    for part in family.parts:
        if part in ("unet", "vae"):
            continue
        if part == "text_encoder":
            shutil.copytree(start.path / "tokenizer", partial / "tokenizer")
        _copy_part(start, part, partial, "model")


def _copy_part(start: Checkpoint, part: str, partial: Path, stem: str) -> None:
    """Config and weights of the start's ``part``, float32 in one file."""
    (partial / part).mkdir()
    shutil.copy(start.path / part / "config.json", partial / part)
    weights, file = read_weights(start.weights[part]), partial / part / f"{stem}.safetensors"
    require("safetensors.torch", "export").save_file(weights, file, metadata={"format": "pt"})
    _same_dtype(partial / part / "config.json")


def _same_dtype(config: Path) -> None:
    values = json.loads(config.read_text(encoding="utf-8"))
    name = str(torch.float32).removeprefix("torch.")
    values |= {key: name for key in ("torch_dtype", "dtype") if key in values}
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
