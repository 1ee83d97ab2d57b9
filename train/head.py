"""A DPT head on the UNet's features in the place of x0 and the VAE's decoder: its first weights and its files.

Knows: what GenPercept has in dpt_head_identity/. Does not know: how the head computes, the optimizer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.model.families import DPT_HEAD
from e2e_deploy.model.networks.dpt_head import FUSION_CHANNELS, DPTHead, result_side
from e2e_deploy.model.networks.head_model import PIXELS, HeadModel
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.packages import require
from e2e_deploy.train.config.settings import TrainConfig


def with_head(
    loaded: SingleStepModel, config: TrainConfig, given: Mapping[str, Any]
) -> tuple[HeadModel, str]:
    """The loaded model with its own head, or with one of random weights from ``run.seed``; and which it is.

    Args:
        loaded: of the start; its UNet loses its last layers, its VAE the decoder.
        config: of the run.
        given: what every single-step model is told.

    Raises:
        UsageError: the VAE or a size of the data does not fit a head.
    """
    if loaded.stride != PIXELS:
        raise UsageError(
            f"model.head needs a VAE that shrinks pictures {PIXELS} times; the start's does {loaded.stride} times"
        )
    levels = len(loaded.unet.config.block_out_channels)
    sizes = [part.size for part in config.data] + ([config.eval.size] if config.eval else [])
    for size in sizes:
        if size and any(result_side(side // PIXELS, levels) != side for side in size):
            raise UsageError(
                f"a size of the data is {list(size)}; with model.head both sides must be multiples of "
                f"{loaded.network_stride // 2}"
            )
    if isinstance(loaded, HeadModel):
        head, change = loaded.head, "its DPT head goes on"
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            head = DPTHead(list(loaded.unet.config.block_out_channels), FUSION_CHANNELS)
        change = "a DPT head with random weights in the place of x0 and the VAE's decoder"
        loaded.unet.conv_norm_out = loaded.unet.conv_out = None
    assert loaded.context_1LC is not None  # no start for one map takes it from the picture
    model = HeadModel(
        loaded.unet, loaded.vae, loaded.context_1LC, head=head, stretch="none", **given
    )
    return model, change


def write_head(model: HeadModel, folder: Path) -> None:
    """``folder``/dpt_head_identity as GenPercept has it, float32."""
    target = folder / DPT_HEAD
    target.mkdir()
    weights = {key: value.contiguous() for key, value in model.head.state_dict().items()}
    require("safetensors.torch", "export").save_file(weights, target / "model.safetensors")
    config = {
        "neck_hidden_sizes": list(model.head.widths),
        "fusion_hidden_size": model.head.neck.convs[0].out_channels,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
