"""A checkpoint on disk: which files it must have, what it is, and whether its weights are whole. No torch here.

A checkpoint is a diffusers folder (model_index.json, unet/, vae/, scheduler/, text_encoder/, tokenizer/) or a hub id
pinned to a commit, ``owner/name@<40 hex digits>``. Weights are safetensors only: a pickle can run code when it is read.
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.families import Identity, identify
from e2e_deploy.optional import require

CARD = "e2e_deploy.json"
DEFAULT_RESOLUTION = 768
MAX_HEADER_BYTES = 100 * 1024 * 1024  # the limit of the safetensors library itself

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@(?P<revision>\S+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are present and whole.

    Attributes:
        path: the diffusers folder.
        id: how the user named it.
        identity: family and task, with the reasons.
        resolution: default processing resolution, longest edge in pixels.
        full_z_range: False for normals whose z was trained on [0, 1].
        note: what must be said with every output, for example "untrained weights"; empty when nothing.
        unet: unet/config.json.
        vae: vae/config.json.
        scheduler: scheduler/scheduler_config.json.
    """

    path: Path
    id: str
    identity: Identity
    resolution: int
    full_z_range: bool
    note: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    def weight_file(self, part: str) -> Path:
        """The safetensors file of ``part`` (unet, vae or text_encoder)."""
        return find_weights(self.path, part)

    def sha256(self) -> str:
        """SHA-256 over the weights and configs that decide the result, in a fixed order."""
        total = hashlib.sha256()
        files = [self.weight_file(part) for part in _WEIGHTS]
        files += [self.path / part / "config.json" for part in _WEIGHTS]
        files.append(self.path / "scheduler" / "scheduler_config.json")
        for file in files:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def describe(self) -> str:
        """One line for people: family, task and why."""
        return f"{self.id}: {self.identity.family.title}, " + "; ".join(self.identity.reasons)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: a checkpoint is a diffusers folder with this file"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def find_weights(root: Path, part: str) -> Path:
    """The safetensors file of ``part``: the plain one, or the fp16 variant.

    Raises:
        CheckpointError: neither is there; says so when a pickle is there instead.
    """
    folder, stem = root / part, _WEIGHTS[part]
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    pickles = (
        [f for f in sorted(folder.glob("*")) if f.suffix in _PICKLES] if folder.is_dir() else []
    )
    if pickles:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which can run code when it is read; convert it where you trust it: "
            f'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{pickles[0].name}', weights_only=True), '{stem}.safetensors')\""
        )
    raise CheckpointError(f"{folder / stem}.safetensors is missing")


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes in a safetensors file, after checking that the file is whole.

    Raises:
        CheckpointError: truncated, or not safetensors.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensors = {key: (str(v["dtype"]), tuple(v["shape"])) for key, v in header.items()}
        end = 8 + length + max((v["data_offsets"][1] for v in header.values()), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    if end != size:
        raise CheckpointError(
            f"{path} is truncated or damaged: it has {size} bytes and its header tells of {end}"
        )
    return tensors


def _download(spec: str) -> Path:
    """Folder of a hub id pinned to a commit; only configs, tokenizer files and safetensors are fetched."""
    match = _HUB_ID.match(spec)
    assert match is not None
    repo, revision = spec.partition("@")[0], match["revision"]
    if revision is None or not _COMMIT.match(revision):
        raise UsageError(
            f"{spec!r} is no folder here; as a hub id it must be pinned to a commit: {repo}@<40 hex digits>, "
            "because what a branch or tag points to can change"
        )
    hub = require("huggingface_hub", "export")
    try:
        folder = hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=["*.json", "*/*.json", "tokenizer/*.txt", "*/*.safetensors"],
        )
    except Exception as error:
        # The hub library raises its own, requests' and httpx' errors; all mean the same to the user.
        first_line = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        raise CheckpointError(f"{spec} could not be fetched from the hub: {first_line}") from error
    return Path(folder)


def open_checkpoint(
    spec: str | Path, *, family: str | None = None, task: str | None = None
) -> Checkpoint:
    """Find, identify and check a checkpoint without loading its weights.

    Args:
        spec: a diffusers folder, or ``owner/name@<commit>`` on the hub.
        family: named family, or None to infer it.
        task: named task, or None to infer it.

    Raises:
        CheckpointError: missing, foreign, damaged or pickled.
        UsageError: an unknown family or task, or a hub id without a commit.
    """
    text = str(spec)
    if Path(text).is_dir():
        root = Path(text)
    elif _HUB_ID.match(text) and not Path(text).exists() and not text.startswith((".", "/")):
        root = _download(text)
    else:
        raise CheckpointError(
            f"{text} is not a checkpoint: expected a diffusers folder or a hub id owner/name@<commit>"
        )
    model_index = read_json(root / "model_index.json")
    unet, vae = read_json(root / "unet" / "config.json"), read_json(root / "vae" / "config.json")
    scheduler = read_json(root / "scheduler" / "scheduler_config.json")
    card = read_json(root / CARD) if (root / CARD).is_file() else {}
    identity = identify(model_index, scheduler, unet, card, family=family, task=task)
    latent = vae.get("latent_channels", 4)
    resolution = model_index.get("default_processing_resolution") or DEFAULT_RESOLUTION
    for name, value in (
        ("latent_channels of vae/config.json", latent),
        ("default_processing_resolution of model_index.json", resolution),
    ):
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{root}: {name} is {value!r}; expected a positive whole number")
    if unet.get("in_channels") not in (latent, 2 * latent) or unet.get("out_channels") != latent:
        raise CheckpointError(
            f"{root / 'unet'} has {unet.get('in_channels')} input and {unet.get('out_channels')} output channels; "
            f"expected {2 * latent} (rgb latent and noise) or {latent} (rgb latent) in, {latent} out"
        )
    for part in _WEIGHTS:
        read_header(find_weights(root, part))
    return Checkpoint(
        path=root,
        id=text,
        identity=identity,
        resolution=resolution,
        full_z_range=model_index.get("use_full_z_range") is not False,
        note=str(card.get("note", "")),
        unet=unet,
        vae=vae,
        scheduler=scheduler,
    )
