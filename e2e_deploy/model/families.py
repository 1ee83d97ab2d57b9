"""The checkpoint families as a table: what differs between checkpoints that share the SD2 architecture.

Which family a folder holds recognition.py says. Knows no torch.
Facts: E2E-FT (arXiv 2409.11355), Marigold v1-0 / v1-1 (arXiv 2312.02145, 2505.09358).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import DIFFUSERS_SIZING, E2E_FT_SIZING, PILLOW_SIZING, Sizing
from e2e_deploy.names import DOMAINS, STRETCHES, FamilyName, ResultKind, TaskName

TASKS: dict[TaskName, tuple[ResultKind, ...]] = {
    "depth": ("depth",),
    "disparity": ("disparity",),
    "normals": ("normals",),
    "geometry": ("depth", "normals"),
    "segmentation": ("mask",),
    "matting": ("matte",),
    "appearance": ("albedo", "material"),
    "lighting": ("linear-albedo", "shading", "residual"),
}
"""What checkpoints do, and the kinds of result that each task gives, in order; a family may have others."""

DPT_HEAD = "dpt_head_identity"
"""Folder of GenPercept's DPT head, which takes the place of the VAE's decoder."""
OWN_DECODER = ("vae_decoder", "vae_post_quant_conv")
"""Folders of a fine-tuned VAE decoder: weights alone, of vae/config.json's shapes."""
STORED_PROMPT = "empty_text_embed.npy"
"""The empty prompt as the text encoder gives it, [L, C] or [1, L, C]."""
CONTROLNET = "controlnet"
"""Folder of the network that gives a UNet the picture's features."""
SEEDS = range(2**32)
"""Of noise that is fixed at export."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What some checkpoints of a family have beside its parts: folders with weights, or a file."""

    title: str
    folders: tuple[str, ...] = ()
    """Of its weights; all of them are there, or none."""
    file: str = ""
    replaces: str = ""
    """A part that is not read where it is there, or what it replaces in one, as ``vae.decoder``."""
    tasks: tuple[TaskName, ...] = ()
    """What a checkpoint with it does; empty: whatever its family does."""
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """As of Family, for checkpoints that have it."""
    refused: str = ""
    """Why a checkpoint with it is refused; empty: it is not."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its folders, or of its file."""
        return self.folders or (self.file,)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one kind of checkpoint is run in a single step."""

    name: FamilyName
    title: str
    tasks: Mapping[TaskName, tuple[ResultKind, ...]]
    """What its checkpoints do, and the kinds of result each gives, in order; the first is what is taken where nothing
    tells."""
    parts: tuple[str, ...] = ("unet", "vae", "text_encoder")
    """Folders with weights that a checkpoint must have."""
    files: tuple[str, ...] = ()
    """Other configs that it must have, and that decide the result."""
    unet_folder: str = "unet"
    """Where its UNet lies beside another family's, if there is such a folder; else in unet."""
    assembly: str = ""
    """How a folder is put together where what is published is none."""
    timestep: int | None = None
    """What the UNet is told; None: the last one of the noise schedule."""
    x0_from_output: float | None = None
    """x0 is this times the UNet's output; None: as the noise schedule's prediction type says."""
    class_labels: tuple[float, ...] = ()
    """What the UNet's class embedding is given; empty: it has none, or settings decide."""
    prompt: str = ""
    """What the text encoder is given, with the settings in braces."""
    pads_prompt: bool = False
    """The prompt is filled up to the text encoder's 77 tokens."""
    normals_signs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What turns the network's normals into ours, x right, y up, z toward the viewer; -1 where an axis points the other
    way."""
    clips_first: bool = False
    """A map is the mean of channels that were clipped to [-1, 1], and not their clipped mean."""
    clip_normals: bool = True
    """Decoded normals are clipped to [-1, 1] before they are made unit length."""
    sizing: Sizing = DIFFUSERS_SIZING
    """Processing sizes as its own pipeline has them."""
    latents: tuple[int, ...] = (1, 2)
    """How many latents the UNet takes: 1 the rgb latent alone, 2 with noise after it."""
    settings: Mapping[str, tuple[str, ...] | range] = field(default_factory=dict)
    """What is chosen at export and fixed in the graph, with its values; the first is taken where none is named."""
    extras: tuple[Extra, ...] = ()
    """What some of its checkpoints have beside the parts."""
    targets: bool = False
    """model_index.json says what its results are, and the UNet has a latent of each in its channels."""
    tells_task: bool = True
    """Its configs tell the task, or their silence means the first one; False: the task must be named."""
    unet_block: str = ""
    """A block that only its UNets have beside diffusers' own."""
    is_any_size: bool = True
    """Its graphs may leave the sides of the picture open."""

    @property
    def is_fixed_step(self) -> bool:
        """Whether its step is the same whatever the noise schedule, which need not be there then."""
        return self.timestep is not None and self.x0_from_output is not None

    def outputs(self, task: TaskName) -> tuple[ResultKind, ...]:
        """Kinds of result that a checkpoint for ``task`` gives.

        Raises:
            UsageError: no checkpoint of this family does that.
        """
        if task not in self.tasks:
            raise UsageError(
                f"{self.title} checkpoints do not do {task}; they do {', '.join(self.tasks)}"
            )
        return self.tasks[task]


def _tasks(*names: TaskName) -> dict[TaskName, tuple[ResultKind, ...]]:
    return {name: TASKS[name] for name in names}


_GEOWIZARD: dict[str, Any] = {
    "tasks": _tasks("geometry"),
    "normals_signs": (1.0, -1.0, -1.0),
    "clip_normals": False,
    "sizing": PILLOW_SIZING,
    "latents": (2,),
    "settings": {"domain": DOMAINS},
}

# arXiv 2406.16864; hubconf.py, stablenormal/ and nirne/pipeline_yoso_normal.py of Stable-X/StableNormal at b89eee2 and
# 84cf3a3. Axes: "the same way as DSINE" with x to the left, y up, z to the viewer (its issue 18).
_STABLENORMAL: dict[str, Any] = {
    "tasks": _tasks("normals"),
    "timestep": 0,
    "x0_from_output": 1.0,
    "normals_signs": (-1.0, 1.0, 1.0),
    "clip_normals": False,
    "latents": (1,),
}

FAMILIES: dict[FamilyName, Family] = {
    family.name: family
    for family in (
        Family(
            name="e2e-ft",
            title="E2E-FT (end-to-end fine-tuned)",
            tasks=_tasks("depth", "normals"),
            normals_signs=(-1.0, 1.0, 1.0),
            clip_normals=False,
            sizing=E2E_FT_SIZING,
        ),
        Family(
            name="marigold",
            title="one-step Marigold",
            tasks=_tasks("depth", "normals"),
        ),
        Family(
            name="lcm",
            title="one-step Marigold LCM",
            tasks=_tasks("depth", "normals"),
            latents=(2,),
        ),
        Family(
            name="marigold-iid",
            title="one-step Marigold-IID",
            tasks=_tasks("appearance", "lighting"),
            targets=True,
            latents=(),
        ),
        # genpercept/genpercept_pipeline.py, run.py at 7cff083; x to the right: figs/demo_depth_normal.jpg.
        Family(
            name="genpercept",
            title="GenPercept",
            tasks=_tasks("depth", "disparity", "normals", "segmentation", "matting"),
            timestep=1,
            x0_from_output=-1.0,
            sizing=E2E_FT_SIZING,
            latents=(1,),
            extras=(
                Extra(
                    title="DPT head",
                    folders=(DPT_HEAD,),
                    replaces="vae.decoder",
                    tasks=("disparity", "depth"),
                    settings={"stretch": STRETCHES},
                ),
                Extra(
                    title="another DPT head",
                    folders=("dpt_head",),
                    refused=f"a head whose last activation is a ReLU, which no published checkpoint has; {DPT_HEAD} "
                    "is read",
                ),
                Extra(title="decoder of its own", folders=OWN_DECODER, replaces="vae.decoder"),
                Extra(title="stored prompt", file=STORED_PROMPT, replaces="text_encoder"),
            ),
            tells_task=False,
        ),
        # Its network's normals have x right, y down, z forward; both published pipelines multiply them by -1.
        Family(
            name="geowizard",
            title="GeoWizard (v1 or E2E-FT)",
            parts=("unet", "vae", "image_encoder"),
            files=("feature_extractor/preprocessor_config.json",),
            is_any_size=False,
            **_GEOWIZARD,
        ),
        Family(
            name="geowizard-v2",
            title="GeoWizard v2",
            prompt="{domain} geometry",
            unet_folder="unet_v2",
            assembly="GeoWizard v2 is published as a UNet alone: a checkpoint is the folder of stabilityai/"
            "stable-diffusion-2 with lemonaddie/geowizard's unet_v2 put into it beside unet",
            **_GEOWIZARD,
        ),
        # arXiv 2409.18124; pipeline.py, eval.py at b737e12. Labels: sine and cosine of (1, 0), "dense prediction".
        # Normals: Hypersim's with x negated (utils/hypersim_dataset.py), as DSINE's.
        Family(
            name="lotus",
            title="Lotus",
            tasks=_tasks("depth", "disparity", "normals"),
            timestep=999,
            x0_from_output=1.0,
            class_labels=(math.sin(1.0), math.sin(0.0), math.cos(1.0), math.cos(0.0)),
            normals_signs=(-1.0, 1.0, 1.0),
            clips_first=True,
            sizing=E2E_FT_SIZING,
            tells_task=False,
        ),
        # arXiv 2501.02576; depthmaster_pipeline.py, modules/unet_2d_condition_s2.py at 4c1efa1.
        Family(
            name="depthmaster",
            title="DepthMaster",
            tasks={"disparity": ("sqrt-disparity",)},
            timestep=1,
            x0_from_output=1.0,
            sizing=E2E_FT_SIZING,
            latents=(1,),
            unet_block="fftblock",
            is_any_size=False,
        ),
        Family(
            name="stablenormal-turbo",
            title="StableNormal-turbo (before v1.5)",
            parts=("unet", "vae", CONTROLNET, "text_encoder"),
            pads_prompt=True,
            settings={"seed": SEEDS},
            is_any_size=False,
            **_STABLENORMAL,
        ),
        Family(
            name="stablenormal-turbo-v1",
            title="StableNormal-turbo v1.5 or later",
            parts=("unet", "vae", CONTROLNET),
            **_STABLENORMAL,
        ),
    )
}

REFUSED: dict[str, str] = {
    "lotus-2": "Lotus-2 is a FLUX model of 12 billion parameters with several steps, not an SD2 UNet",
    "fe2e": "FE2E is a Step1X-Edit model of FLUX's size, not an SD2 UNet",
    "dvd": "DVD is a video transformer (Wan 2.1) of 81 frames at once, not an SD2 UNet",
    "depthfm": "DepthFM is published as a pickle, which can run code when it is read",
    "primedepth": "PrimeDepth writes a caption of each picture, so its prompt is not constant",
}
"""Known, with the reason why they are refused by name instead of giving wrong results."""


def get_family(name: str) -> Family:
    """The family called ``name``.

    Raises:
        UsageError: unknown, or known and not supported.
    """
    if name in REFUSED:
        raise UsageError(f"{REFUSED[name]}; supported: {', '.join(FAMILIES)}")
    for known, family in FAMILIES.items():
        if known == name:
            return family
    raise UsageError(f"unknown family {name!r}; supported: {', '.join(FAMILIES)}")
