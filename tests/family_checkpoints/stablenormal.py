"""StableNormal-turbo checkpoints with random weights: SD2's configs at a small width, and a ControlNet of them."""

import warnings
from pathlib import Path

import torch

from tests.export.random_models import randomise
from tests.family_checkpoints.sd2 import UNET, write_sd2
from tests.small_checkpoint import edit_json

PIPELINE = {"_class_name": "YOSONormalsPipeline"}
NOT_OF_CONTROLNETS = ("out_channels", "up_block_types", "sample_size")


def write_stablenormal(folder: Path, *, version=0, index=(), controlnet=(), **changes) -> Path:
    """As its pipeline is saved, version 0 (with a text encoder) or 1; ``controlnet`` changes its config."""
    import diffusers

    write_sd2(folder, index=PIPELINE | dict(index), scheduler=None, **changes)
    config = {key: value for key, value in UNET.items() if key not in NOT_OF_CONTROLNETS}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = diffusers.ControlNetModel(**(config | dict(controlnet)))
    randomise(network, torch.Generator().manual_seed(5))
    network.float().save_pretrained(folder / "controlnet")
    edit_json(folder / "controlnet" / "config.json", _class_name="ControlNetVAEModel")
    if version:
        for part in ("text_encoder", "tokenizer"):
            for file in (folder / part).iterdir():
                file.unlink()
            (folder / part).rmdir()
    return folder
