"""From a Stable-Diffusion-2-size checkpoint to TensorRT-RTX engines on this machine: seconds and peak memory.

python benchmarks/build_engines.py --work DIR [--targets sm89,sm120] [--precision fp16]
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from full_size import full_size_checkpoint
from report import write_result

from e2e_deploy.checkpoint import open_checkpoint
from e2e_deploy.export.engine_cache import EngineCache
from e2e_deploy.export.engines import build_engines
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.frames import parse_size
from e2e_deploy.progress import Stages, peak_memory_gib

TARGETS = "sm89,sm75,sm80,sm86,sm120,sm121"


def main() -> None:
    """Make the checkpoint if needed, export it, build an engine for each target, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-full-size")
    parser.add_argument("--frame-size", default="480x640")
    parser.add_argument("--resolution", type=int, default=768)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--targets", default=TARGETS, help="the first counts with the export")
    arguments = parser.parse_args()
    checkpoint_folder = full_size_checkpoint(arguments.work)
    stages = Stages()
    bundle = export_bundle(
        open_checkpoint(checkpoint_folder),
        arguments.work / f"bundle-{arguments.precision}",
        frame_sizes=[parse_size(arguments.frame_size)],
        resolution=arguments.resolution,
        precision=arguments.precision,
        stages=stages,
    )
    onnx = {"seconds": sum(s.seconds for s in stages.done), "peak_gib": peak_memory_gib()}
    engines = []
    for target in arguments.targets.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.work) as cache:
            built = build_engines(
                bundle.root,
                bundle.manifest,
                engine="tensorrt-rtx",
                targets=[target],
                cache=EngineCache(Path(cache)),
                stages=stages,
            )
            (entry,) = built.entries
            engines.append(
                {
                    "target": target,
                    "version": entry.version,
                    "build_seconds": entry.seconds,
                    "seconds": stages.done[-1].seconds,  # with hashing, writing and caching
                    "bytes": (bundle.root / entry.file).stat().st_size,
                    "peak_gib": peak_memory_gib(),
                    "options": entry.options,
                }
            )
            shutil.rmtree(bundle.root / "engines")  # each is as large as the model
    write_result(
        f"build_engines_{arguments.precision}",
        {
            "frame_size": bundle.manifest.graphs[0].frame_size,
            "processing_size": bundle.manifest.graphs[0].processing_size,
            "precision": arguments.precision,
            "stages": [vars(stage) for stage in stages.done],
            "onnx": onnx,
            "engines": engines,
            "onnx_and_first_engine_seconds": onnx["seconds"] + engines[0]["seconds"],
        },
    )


if __name__ == "__main__":
    main()
