"""Export of GenPercept at SD2.1's real width, with random weights: seconds a stage, peak memory, parity.

python -m benchmarks.export.genpercept --work DIR [--head] [--frame-size 96x128] [--precision fp32]
"""

import json
import multiprocessing
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.frames import parse_size
from e2e_deploy.model.families import DPT_HEAD
from e2e_deploy.model.networks.dpt_head import DPTHead
from e2e_deploy.progress import Stages, peak_memory_gib

UNET = {"in_channels": 4, "upcast_attention": True}


def write_genpercept(folder: Path, *, head: bool) -> None:
    """SD2.1's folder with a UNet of four channels, and a DPT head if asked for; float16, 1.9 GB."""
    full_size.write_full_size(folder, unet=UNET)
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    card = {"family": "genpercept", "task": "disparity", "note": "random weights"}
    (folder / "e2e_deploy.json").write_text(json.dumps(card), encoding="utf-8")
    if head:
        torch.manual_seed(0)
        weights = DPTHead(full_size.UNET["block_out_channels"]).half().state_dict()
        (folder / DPT_HEAD).mkdir()
        save_file(weights, folder / DPT_HEAD / "model.safetensors")


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = full_size.options(__doc__, "fp32")
    parser.set_defaults(frame_size="96x128", resolution=0)
    parser.add_argument("--head", action="store_true")
    arguments = parser.parse_args()
    name = "genpercept_dpt_head" if arguments.head else "genpercept"
    checkpoint = arguments.work / name
    if not (checkpoint / "e2e_deploy.json").is_file():
        # In a process of its own, whose memory does not count.
        maker = multiprocessing.get_context("spawn").Process(
            target=write_genpercept, args=(checkpoint,), kwargs={"head": arguments.head}
        )
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise SystemExit("the checkpoint could not be made")
    stages = Stages()
    bundle = export_bundle(
        checkpoint,
        arguments.work / f"{name}-{arguments.precision}",
        frame_sizes=[parse_size(arguments.frame_size)],
        resolution=arguments.resolution,
        precision=arguments.precision,
        engine="onnx",
        stages=stages,
    )
    graph = bundle.manifest.graphs[0]
    write_result(
        f"export_{name}_{arguments.precision}",
        {
            "parameters": full_size.count_parameters(checkpoint),
            "frame_size": graph.frame_size,
            "processing_size": graph.processing_size,
            "precision": arguments.precision,
            "weights": "random",
            "stages": [vars(stage) for stage in stages.done],
            "seconds": sum(stage.seconds for stage in stages.done),
            "peak_gib": peak_memory_gib(),
            "bundle_bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
            "verification": [vars(entry) for entry in bundle.manifest.verification],
        },
    )


if __name__ == "__main__":
    main()
