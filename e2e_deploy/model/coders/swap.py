"""A VAE in the place of a checkpoint's own, for one half of the work or both. No torch here.

It is found and checked as strictly as a checkpoint: safetensors only, the shapes its config asks for, a hub id pinned
to a commit. What its numbers are worth shows only beside the VAE it replaces (export/coder_cost.py).
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import (
    BUNDLED,
    DEFAULT_LATENT_CHANNELS,
    DIFFUSERS_STEM,
    PACKAGED,
    Checkpoint,
    bundled_checkpoint,
    fetch_pinned,
    is_checkpoint_id,
)
from e2e_deploy.model.checkpoint_configs import check_coder, coder_levels, read_config
from e2e_deploy.model.families import DPT_HEAD
from e2e_deploy.model.weights import Weights, check_layers, find_weights
from e2e_deploy.names import VAE_PARTS, CoderHalf, VaePart


@dataclass(frozen=True)
class Coder:
    """A checked VAE.

    Attributes:
        id: how the user named it.
        path: folder of its config.json and weights.
        part: which half it takes the place of.
        config: its config.json.
        weights: of both halves.
    """

    id: str
    path: Path
    part: VaePart
    config: Mapping[str, Any]
    weights: Weights

    def gives(self, half: CoderHalf) -> bool:
        """Whether it takes the place of that half."""
        return self.part in ("both", half)

    def sha256(self) -> str:
        """SHA-256 over its weights and config, in a fixed order."""
        total = hashlib.sha256()
        for file in (*self.weights.files, self.path / "config.json"):
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()


def swap_coder(
    checkpoint: Checkpoint, vae: str | Path, part: VaePart = "both", *, fetch: bool = True
) -> Checkpoint:
    """The checkpoint with ``vae`` in the place of its own VAE.

    Args:
        checkpoint: opened.
        vae: folder of an AutoencoderTiny or AutoencoderKL, a folder with one in vae/, or ``owner/name@<commit>``.
        part: the half it is taken for.
        fetch: a hub id that is not on this machine may be fetched.

    Raises:
        CheckpointError: missing, damaged, pickled, or made for another latent space as far as its config tells.
        UsageError: an unknown part, one that is not read, or a hub id without a commit.
    """
    if part not in VAE_PARTS:
        raise UsageError(f"`vae_part` is {part!r}; expected one of {', '.join(VAE_PARTS)}")
    has_head = checkpoint.identity.has(DPT_HEAD)
    if part == "decoder" and has_head:
        raise UsageError('`vae_part="decoder"` has no effect: a DPT head has the decoder\'s place')
    folder = coder_folder(str(vae), fetch=fetch)
    config = read_config(folder, "config.json", like="vae/config.json")
    weights = find_weights(folder, DIFFUSERS_STEM)
    check_layers(config, weights)
    decodes = part != "encoder" and not has_head
    check_coder(folder, config, checkpoint.identity.outputs if decodes else ())
    own = checkpoint.configs["vae"]
    _require_same(
        folder, "latent channels", *(each.get("latent_channels") for each in (config, own))
    )
    _require_same(folder, "levels", *(coder_levels(each) for each in (config, own)))
    return replace(checkpoint, coder=Coder(str(vae), folder, part, config, weights))


def _require_same(folder: Path, what: str, found: int | None, wanted: int | None) -> None:
    found, wanted = (each or DEFAULT_LATENT_CHANNELS for each in (found, wanted))
    if found != wanted:
        raise CheckpointError(
            f"{folder} has {found} {what} and the checkpoint's own VAE {wanted}: it was made for another model"
        )


def coder_folder(text: str, *, fetch: bool = True) -> Path:
    """The folder of config.json and weights; arguments as ``vae`` and ``fetch`` of ``swap_coder``.

    Raises:
        CheckpointError: it names nothing, or what is not here and cannot be fetched.
        UsageError: a hub id without a commit, or a packaged checkpoint that does not exist.
    """
    if os.path.isdir(text):
        folder = Path(text)
    elif text.startswith(PACKAGED):
        folder = bundled_checkpoint(text.removeprefix(BUNDLED))
    elif is_checkpoint_id(text):
        folder = fetch_pinned(text, local=not fetch)
    else:
        raise CheckpointError(
            f"{text or 'an empty text'} is no VAE: expected a folder with its config.json, or a hub id "
            "owner/name@<commit>"
        )
    within = folder / "vae"
    return within if not (folder / "config.json").exists() and within.is_dir() else folder
