"""Export of GenPercept at SD2.1's real width, with random weights: seconds a stage, peak memory, parity.

python -m benchmarks.export.genpercept --work DIR [--head] [--frame-size 96x128] [--precision fp32]
"""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.model.families import DPT_HEAD
from e2e_deploy.model.networks.dpt_head import DPTHead
from e2e_deploy.progress import Stages

UNET = {"in_channels": 4, "upcast_attention": True}


def write_genpercept(folder: Path, *, head: bool) -> None:
    """SD2.1's folder with a UNet of four channels, and a DPT head if asked for; float16, 1.9 GB."""
    full_size.write_full_size(folder, unet=UNET)
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    if head:
        torch.manual_seed(0)
        weights = DPTHead(full_size.UNET["block_out_channels"]).half().state_dict()
        (folder / DPT_HEAD).mkdir()
        save_file(weights, folder / DPT_HEAD / "model.safetensors")
    card = {"family": "genpercept", "task": "disparity", "note": "random weights"}
    (folder / "e2e_deploy.json").write_text(json.dumps(card), encoding="utf-8")


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = full_size.options(__doc__, "fp32")
    parser.set_defaults(frame_size="96x128", resolution=0)
    parser.add_argument("--head", action="store_true")
    arguments = parser.parse_args()
    name = "genpercept_dpt_head" if arguments.head else "genpercept"
    write = partial(write_genpercept, head=arguments.head)
    checkpoint = full_size.made(arguments.work / name, write, last="e2e_deploy.json")
    stages = Stages()
    bundle = full_size.export(arguments, stages, checkpoint)
    found = full_size.exported(bundle, checkpoint, stages)
    write_result(f"export_{name}_{arguments.precision}", found)


if __name__ == "__main__":
    main()
