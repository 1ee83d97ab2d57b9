"""A small VAE in the place of the large one, at SD2 size with random weights: operations, floors, sizes, CPU times.

Counted with fewer layers in the UNet too.

    python -m benchmarks.export.turbo                        counts on shapes alone, a minute
    python -m benchmarks.export.turbo --time [--rounds 9]    also ONNX sizes, and both graphs timed in turn on the CPU
    python -m benchmarks.export.turbo --plans sm89           TensorRT-RTX plans in fp16 instead; needs no GPU

The floor of a device is that of benchmarks/gpu/roofline.py, in fp16. ``--small`` rehearses with a small model.
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import full_size
from benchmarks.export.specialise import full_size_model
from benchmarks.gpu.roofline import Roof, count, work_of
from benchmarks.report import write_result
from benchmarks.speed.specialised_speed import compare, write_graph
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.errors import ParityError
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.graph.specialise import count_macs, count_parameters, specialise
from e2e_deploy.frames import parse_size
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.coders.coder import TwoCoders
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.progress import Stages
from e2e_deploy.train.distillation.unet import thinned

HW = (768, 768)
"""Picture size of the counts."""

ROOFS = {
    "H200, measured": Roof(matrix_tflops=750.8, copy_gb_s=4170.5),
    "RTX 4090, its data sheet": Roof(matrix_tflops=165.2, copy_gb_s=1008.0),
    "Jetson AGX Orin, its data sheet": Roof(matrix_tflops=42.5, copy_gb_s=204.8),
}
"""fp16 with fp32 sums, without sparsity; the first from benchmarks/results/gpu_speed_576x768_batch1.json."""

LAYERS = (1, 1, 1, 1)
"""Of the levels of a UNet with fewer, which has two at each."""

MODELS = (
    *("large", "small encoder", "small decoder", "turbo"),
    *("large, UNet with fewer layers", "turbo, UNet with fewer layers"),
)
PLAIN, TURBO = "large VAE", "turbo"


def counted_model(name: str) -> SingleStepModel:
    """The full-size model of that name, on the meta device."""
    model = full_size_model(2, "meta")
    with torch.device("meta"):
        small = full_size.tiny_coder()
    large = model.vae
    model.vae = {
        "large": large,
        "small encoder": TwoCoders(small, large),
        "small decoder": TwoCoders(large, small),
        "turbo": small,
    }[name.partition(",")[0]]
    if "fewer" in name:
        model.unet = thinned(model.unet, LAYERS)
    return model


def counts(name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Of the specialised model of that name: parameters, multiply-adds by part, floors in fp16."""
    plain = count_macs(counted_model(name), size_hw)[""]
    special, _ = specialise(counted_model(name), sizes_hw=[size_hw])
    macs = count_macs(special, size_hw)
    rgb_13HW = torch.empty(1, 3, *size_hw, device="meta", dtype=torch.float16)
    operations, _ = count(special.half(), rgb_13HW)
    return {
        "parameters": count_parameters(special),
        "macs": macs[""],
        "macs_not_specialised": plain,
        "macs_by_part": {
            part: macs.get(part, 0) for part in ("vae.encoder", "unet", "vae.decoder")
        },
        "floors": {
            device: asdict(work_of(operations, roof)) | asdict(roof)
            for device, roof in ROOFS.items()
        },
    }


def checkpoints(work: Path, *, small: bool) -> dict[str, Path]:
    """Folders of the model with the large VAE and with the small one."""
    plain = bundled_checkpoint() if small else full_size.full_size_checkpoint(work)
    name = "small-turbo" if small else "turbo"
    return {PLAIN: plain, TURBO: full_size.with_tiny_coder(work / name, plain)}


def timed(arguments: argparse.Namespace, frame_hw: tuple[int, int], edge: int) -> dict[str, Any]:
    """fp32 graphs of both: bytes, peak memory, latency in turn."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        paths = {}
        for name, checkpoint in checkpoints(arguments.work, small=arguments.small).items():
            paths[name] = Path(folder) / f"{name.replace(' ', '-')}.onnx"
            opened, how = open_checkpoint(checkpoint), {"specialised": True}
            seen_hw = write_graph(opened, paths[name], frame_hw, edge, how=how)
        sizes = {
            name: path.stat().st_size + path.with_suffix(".data").stat().st_size
            for name, path in paths.items()
        }
        found = compare(paths, reference_frames(frame_hw, 1), arguments.rounds)
    del found[
        "relative_difference"
    ]  # of two models with random weights, which have nothing in common
    return {"processing_size": seen_hw, "onnx_bytes": sizes, **found}


def planned(arguments: argparse.Namespace, frame_hw: tuple[int, int], edge: int) -> dict[str, Any]:
    """fp16 bundles of both with a TensorRT-RTX plan: bytes, and seconds of the builder."""
    rows: dict[str, Any] = {}
    for name, checkpoint in checkpoints(arguments.work, small=arguments.small).items():
        out = arguments.work / f"{name.replace(' ', '-')}-fp16"
        try:
            bundle = export_bundle(
                checkpoint,
                out,
                precision="fp16",
                frame_sizes=[frame_hw],
                resolution=edge,
                engine="tensorrt-rtx",
                targets=arguments.plans.split(","),
                stages=Stages(),
            )
        except ParityError as error:  # random weights amplify what is below a camera's noise
            rows[name] = {"refused": str(error)}
            continue
        rows[name] = {
            "onnx_bytes": sum(
                entry.bytes for file, entry in bundle.manifest.files.items() if "plan" not in file
            ),
            "parity": bundle.manifest.verification[0].parity,
            "plans": [
                {
                    "target": entry.target,
                    "bytes": bundle.manifest.files[entry.file].bytes,
                    "build_seconds": entry.seconds,
                }
                for entry in bundle.manifest.plans
            ],
        }
        shutil.rmtree(out)
    return rows


def main() -> None:
    """Count, and time and build what is asked for; write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-full-size")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--plans", default="", help="targets, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frame-size", default="480x640")
    parser.add_argument("--small", action="store_true", help="e2e-tiny in the place of SD2's size")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    frame_hw, edge = parse_size(arguments.frame_size), 0 if arguments.small else 768
    kept_as = "turbo_small" if arguments.small else "turbo_full_size"
    if arguments.plans:
        built = planned(arguments, frame_hw, edge)
        write_result(
            f"{kept_as}_plans", {"weights": "random", "frame_size": frame_hw, "fp16": built}
        )
        return
    rows = {name: counts(name, HW) for name in MODELS}
    result: dict[str, Any] = {
        "weights": "random",
        "picture_hw": HW,
        "counts": rows,
        "times_fewer_macs": {
            name: rows["large"]["macs"] / rows[name]["macs"] for name in MODELS[1:]
        },
        "frame_size": frame_hw,
    }
    if arguments.time:
        result["cpu"] = timed(arguments, frame_hw, edge)
    write_result(kept_as, result)


if __name__ == "__main__":
    main()
