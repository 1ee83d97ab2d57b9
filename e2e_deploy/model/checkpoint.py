"""A checkpoint on disk: which files it must have, what it is, and whether its weights are whole. No torch here.

A checkpoint is a diffusers folder (model_index.json, unet/, vae/, scheduler/, text_encoder/, tokenizer/), a hub id
pinned to a commit, ``owner/name@<40 hex digits>``, or a small one in the package,
``bundled:e2e-tiny-depth``. Weights are safetensors only: a pickle can run code when it is read.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint_configs import check_coder, read_config
from e2e_deploy.model.families import DPT_HEAD, FAMILIES, OWN_DECODER, STORED_PROMPT
from e2e_deploy.model.recognition import Configs, Identity, identify
from e2e_deploy.model.weights import Weights, check_layers, find_weights
from e2e_deploy.names import FamilyName
from e2e_deploy.packages import require
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.model.coders.swap import Coder

CARD = "e2e_deploy.json"
SCHEDULER = "scheduler/scheduler_config.json"
DEFAULT_RESOLUTION = 768
DEFAULT_LATENT_CHANNELS = 4

_STEMS = dict.fromkeys(("text_encoder", "image_encoder", DPT_HEAD, *OWN_DECODER), "model")
"""Of the weight files of parts that are not diffusers', which have another."""
DIFFUSERS_STEM = "diffusion_pytorch_model"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@(?P<revision>\S+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are present and whole.

    Attributes:
        path: the diffusers folder.
        id: how the user named it.
        identity: family and task, with the reasons.
        settings: what was chosen among the family's settings.
        resolution: default processing resolution, longest edge in pixels; 0 for the frame's own size.
        full_z_range: False for normals whose z was trained on [0, 1].
        note: what must be said with every output, for example "untrained weights"; empty when nothing.
        scheduler: scheduler/scheduler_config.json; empty where there is none and none is needed.
        configs: config.json by part, for example unet.
        weights: by part, likewise; some have weights and no config.
        files: the family's other configs by their paths.
        coder: the VAE that was put in the place of its own, or of a half of it; no part of ``sha256``.
    """

    path: Path
    id: str
    identity: Identity
    settings: Mapping[str, str]
    resolution: int
    full_z_range: bool
    note: str
    scheduler: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Weights]
    files: Mapping[str, Mapping[str, Any]]
    coder: "Coder | None" = None

    @property
    def unet(self) -> Mapping[str, Any]:
        """unet/config.json."""
        return self.configs["unet"]

    def folder(self, part: str) -> Path:
        """Where ``part`` lies."""
        return self.weights[part].files[0].parent

    def sha256(self) -> str:
        """SHA-256 over the weights and configs that decide the result, in a fixed order."""
        total = hashlib.sha256()
        paths = [file for weights in self.weights.values() for file in weights.files]
        paths += [self.folder(part) / "config.json" for part in self.configs]
        paths += [self.path / extra.file for extra in self.identity.extras if extra.file]
        paths += [self.path / file for file in self.files]
        if self.scheduler:
            paths.append(self.path / SCHEDULER)
        for file in paths:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        # All that model_index.json decides beside family, task and resolution.
        if not self.full_z_range:
            total.update(b"use_full_z_range: false")
        return total.hexdigest()

    def describe(self) -> str:
        """One line for people: family, task and why."""
        said = [f"{self.id}: {self.identity.family.title}, {'; '.join(self.identity.reasons)}"]
        if self.coder is not None:
            halves = "VAE" if self.coder.part == "both" else f"VAE's {self.coder.part}"
            said.append(f"{halves} from {self.coder.id}")
        return clean("; ".join(said))


PACKAGED = "bundled:"
BUNDLED = f"{PACKAGED}e2e-tiny-"
BUNDLED_TASKS = ("depth", "normals")
BUNDLED_NAMES = (*BUNDLED_TASKS, "turbo")
"""``turbo`` is depth with a small VAE, distilled from ``depth``."""


def _bundled(task: str) -> str:
    if task not in BUNDLED_TASKS:
        raise UsageError(
            f"no checkpoint in the package does {task!r}; they do {' and '.join(BUNDLED_TASKS)}"
        )
    return task


def bundled_checkpoint(name: str = "depth") -> Path:
    """The packaged folder of a small checkpoint, trained on rendered scenes (its README has scores).

    Args:
        name: the task that it does, or one of BUNDLED_NAMES besides.

    Raises:
        UsageError: none of the packaged ones is called so.
    """
    if name not in BUNDLED_NAMES:
        raise UsageError(
            f"no checkpoint in the package is called {name!r}; they are {', '.join(BUNDLED_NAMES)}, or as ids "
            f"{', '.join(BUNDLED + each for each in BUNDLED_NAMES)}"
        )
    return Path(str(files("e2e_deploy.assets"))) / f"e2e-tiny-{name}"


def bundled_id(task: str) -> str:
    """Name of the bundled checkpoint in manifests, which open_checkpoint takes; it holds no path of this machine."""
    return BUNDLED + _bundled(task)


def fetch_pinned(spec: str, *, local: bool = False) -> Path:
    """Folder of a hub id pinned to a commit; only configs, tokenizer files and safetensors are fetched.

    With ``local`` nothing is fetched: it was before.

    Raises:
        UsageError: it names no commit.
        CheckpointError: it cannot be fetched, or is not here.
    """
    match = _HUB_ID.match(spec)
    assert match is not None
    repo, revision = spec.partition("@")[0], match["revision"]
    if revision is None or not _COMMIT.match(revision):
        raise UsageError(
            f"{spec!r} is no folder here; as a hub id it must be pinned to a commit: {repo}@<40 hex digits>, "
            "because what a branch or tag points to can change; the newest is told by: "
            f"git ls-remote https://huggingface.co/{repo} HEAD"
        )
    hub = require("huggingface_hub", "export")
    try:
        folder = hub.snapshot_download(
            repo,
            revision=revision,
            local_files_only=local,
            allow_patterns=[
                "*.json",
                "*/*.json",
                "tokenizer/*.txt",
                f"{DIFFUSERS_STEM}*.safetensors",
                "*/*.safetensors",
                STORED_PROMPT,
            ],
        )
    except Exception as error:
        # The hub library raises its own, requests' and httpx' errors; all mean the same to the user.
        first_line = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        what = "is not on this machine" if local else "could not be fetched from the hub"
        raise CheckpointError(f"{spec} {what}: {first_line}") from error
    return Path(folder)


def is_checkpoint_id(text: str) -> bool:
    """Whether it names a checkpoint by id, on the hub or in the package, and is nothing on this disk."""
    is_hub = _HUB_ID.match(text) is not None and not text.startswith((".", "/"))
    return text.startswith(PACKAGED) or (is_hub and not os.path.exists(text))


def _find(text: str) -> Path:
    """The folder of a checkpoint as open_checkpoint is given it."""
    if not text:
        raise UsageError("the checkpoint is an empty text; expected a diffusers folder or a hub id")
    if text.startswith(PACKAGED):
        return bundled_checkpoint(text.removeprefix(BUNDLED))
    if os.path.isdir(text):  # whatever the text is, also one too long for a path
        return Path(text)
    if is_checkpoint_id(text):
        return fetch_pinned(text)
    raise CheckpointError(
        f"{text} is not a checkpoint: expected a diffusers folder or a hub id owner/name@<commit>"
    )


def is_lone_unet(root: Path) -> bool:
    """Whether a folder holds a UNet and no pipeline, as GenPercept publishes its checkpoints."""
    names = (f"{DIFFUSERS_STEM}.safetensors", f"{DIFFUSERS_STEM}.bin", "unet")
    # os.path's takes what may not be looked at, or is too long a name, for absent: others say that better.
    is_whole = any(os.path.exists(root / name) for name in ("model_index.json", "vae"))
    return not is_whole and any(os.path.exists(root / name) for name in names)


def _check_tokenizer(folder: Path) -> None:
    """Refuse what is no plain file where the library that reads it would wait for ever, as for a pipe."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if not file.is_file() and not file.is_dir():
            raise CheckpointError(
                f"the tokenizer in {folder} does not load: {file.name} is no plain file"
            )


def _check_channels(
    folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], identity: Identity
) -> None:
    """Refuse a UNet that takes or gives other numbers of channels than the family's latents have."""
    latent = vae.get("latent_channels") or DEFAULT_LATENT_CHANNELS
    takes, gives = unet.get("in_channels"), unet.get("out_channels")
    count = len(identity.targets)
    allowed = identity.family.latents or (1 + count,)
    wanted = latent * (count or 1)
    if takes not in [latent * number for number in allowed] or gives != wanted:
        expected = " or ".join(
            f"{latent * number} (rgb latent{' and noise' if number > 1 else ''})"
            for number in sorted(allowed)[::-1]
        )
        raise CheckpointError(
            f"{folder} has {takes} input and {gives} output channels; expected {expected} in, {wanted} out"
        )


def _unet_folder(root: Path, there: frozenset[str], named: str | None) -> str:
    """The folder of the UNet that is meant, where a family has one of its own beside another's."""
    for family in FAMILIES.values():
        fits = named == family.name if named else there.issuperset({*family.parts} - {"unet"})
        if family.unet_folder == "unet" or family.unet_folder not in there or not fits:
            continue
        if not named and there.issuperset(FAMILIES["geowizard"].parts):
            raise CheckpointError(
                f"{root} holds all of geowizard and of {family.name}; name the one that is meant with `family`"
            )
        return family.unet_folder
    return "unet"


def _blocks(folder: Path) -> frozenset[str]:
    """First parts of the names of the UNet's weights; none where they cannot be read, which is said later."""
    try:
        weights = find_weights(folder, DIFFUSERS_STEM)
    except CheckpointError:
        return frozenset()
    return frozenset(name.partition(".")[0] for name in weights.tensors)


def _settings(identity: Identity, chosen: Mapping[str, str]) -> dict[str, str]:
    """Every setting of the checkpoint with its value."""
    family, known = identity.family, identity.settings
    for name, value in chosen.items():
        if name not in known:
            having = [extra.title for extra in family.extras if name in extra.settings]
            without = f" without a {having[0]}" if having else ""
            raise UsageError(f"`{name}` has no effect on {family.title} checkpoints{without}")
        values = known[name]
        if isinstance(values, range):
            # Python converts no text of more than 4300 digits.
            is_number = len(value) <= 20 and value.isascii() and value.isdecimal()
            if not (is_number and int(value) in values):
                raise UsageError(
                    f"`{name}` is {clean(value, 40)!r}; expected a whole number from {values[0]} to {values[-1]}"
                )
        elif value not in values:
            raise UsageError(f"`{name}` is {value!r}; expected one of {', '.join(values)}")
    return {name: str(values[0]) for name, values in known.items()} | dict(chosen)


def open_checkpoint(
    spec: str | Path,
    *,
    family: str | None = None,
    task: str | None = None,
    settings: Mapping[str, str] | None = None,
    default: FamilyName | None = None,
) -> Checkpoint:
    """Find, identify and check a checkpoint without loading its weights.

    Args:
        spec: a diffusers folder, ``owner/name@<commit>`` on the hub, or ``bundled:e2e-tiny-<task>``.
        family: named family, or None to infer it.
        task: named task, or None to infer it.
        default: family of what tells none, see ``identify``.
        settings: chosen among the family's; what is not named takes the family's first value.

    Raises:
        CheckpointError: missing, foreign, damaged or pickled.
        UsageError: an unknown family, task or setting, or a hub id without a commit.
    """
    root = _find(text := str(spec))
    if is_lone_unet(root):
        raise CheckpointError(
            f"{root} holds a UNet and no model_index.json: copy the folder of what it was fine-tuned from (of "
            "GenPercept: stable-diffusion-2-1), put its files in the place of those in unet/ there, its other folders "
            "beside, and name `family` and `task`"
        )
    _check_tokenizer(root / "tokenizer")
    model_index = read_config(root, "model_index.json")
    has_scheduler = (root / SCHEDULER).exists()
    scheduler = read_config(root, SCHEDULER) if has_scheduler else {}
    # What this toolkit wrote beside the others; a checkpoint from elsewhere has none.
    card = read_config(root, CARD) if (root / CARD).exists() else {}
    there = frozenset(entry.name for entry in root.iterdir())
    unet_folder = _unet_folder(root, there, family or card.get("family"))
    unet = read_config(root, f"{unet_folder}/config.json", like="unet/config.json")
    identity = identify(
        Configs(model_index, scheduler, unet, card, there, _blocks(root / unet_folder)),
        family=family,
        task=task,
        default=default,
    )
    if not has_scheduler and not identity.family.is_fixed_step:
        read_config(root, SCHEDULER)  # says that it is missing
    parts = identity.parts
    missing = [part for part in parts if part != "unet" and part not in there]
    if missing and identity.family.assembly:
        raise CheckpointError(f"{root} has no {missing[0]}: {identity.family.assembly}")
    configs = {
        part: unet if part == "unet" else read_config(root, f"{part}/config.json") for part in parts
    }
    extra_parts = [folder for extra in identity.extras for folder in extra.folders]
    configs |= {
        part: read_config(root, f"{part}/config.json")
        for part in extra_parts
        if (root / part / "config.json").exists()
    }
    _check_channels(root / unet_folder, unet, configs["vae"], identity)
    check_coder(root / "vae", configs["vae"], identity.outputs)
    folders = {part: root / part for part in (*parts, *extra_parts)} | {"unet": root / unet_folder}
    weights = {
        part: find_weights(folder, _STEMS.get(part, DIFFUSERS_STEM))
        for part, folder in folders.items()
    }
    files = {file: read_config(root, file) for file in identity.family.files}
    for part in parts:
        check_layers(configs[part], weights[part])
    resolution = model_index.get("default_processing_resolution")
    return Checkpoint(
        path=root,
        id=text,
        identity=identity,
        settings=_settings(identity, settings or {}),
        resolution=DEFAULT_RESOLUTION if resolution is None else resolution,
        full_z_range=model_index.get("use_full_z_range") is not False,
        note=clean(card.get("note") or ""),
        scheduler=scheduler,
        configs=configs,
        weights=weights,
        files=files,
    )
