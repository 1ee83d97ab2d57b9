"""From a Stable-Diffusion-2-size checkpoint to TensorRT-RTX engines on this machine: seconds and peak memory.

The builder has a process of its own; the peak of an engine is that process at its largest and this one beside it.

python benchmarks/build_engines.py --work DIR [--targets sm89,sm120] [--precision fp16]
"""

import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import full_size
from report import write_result

from e2e_deploy.bundle import Bundle
from e2e_deploy.export.engine_cache import EngineCache
from e2e_deploy.export.engines import build_engines
from e2e_deploy.progress import Stages, peak_memory_gib
from e2e_deploy.trt_messages import BuildError

TARGETS = "sm89,sm75,sm80,sm86,sm120,sm121"


def peak_with_builder_gib() -> float:
    """This process now, and the largest builder so far."""
    kib = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
    return (kib + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20


def build(work: Path, bundle: Bundle, target: str, stages: Stages) -> dict[str, Any]:
    """One engine, built without the cache and thrown away; or why the library refuses it."""
    with tempfile.TemporaryDirectory(dir=work) as cache:
        try:
            built = build_engines(
                bundle.root,
                bundle.manifest,
                engine="tensorrt-rtx",
                targets=[target],
                cache=EngineCache(Path(cache)),
                stages=stages,
            )
        except BuildError as error:
            return {"target": target, "refused": str(error)}
    (entry,) = built.entries
    size = (bundle.root / entry.file).stat().st_size
    shutil.rmtree(bundle.root / "engines")  # each is as large as the model
    return {
        "target": target,
        "version": entry.version,
        "build_seconds": entry.seconds,
        "seconds": stages.done[-1].seconds,  # with hashing, writing and caching
        "bytes": size,
        "peak_gib": peak_with_builder_gib(),
        "options": entry.options,
    }


def main() -> None:
    """Make the checkpoint if needed, export it, build an engine for each target, write the result."""
    parser = full_size.options(__doc__, "fp16")
    parser.add_argument("--targets", default=TARGETS, help="the first counts with the export")
    arguments = parser.parse_args()
    stages = Stages()
    bundle = full_size.export(arguments, stages)
    onnx = {"seconds": sum(s.seconds for s in stages.done), "peak_gib": peak_memory_gib()}
    engines = [
        build(arguments.work, bundle, target, stages) for target in arguments.targets.split(",")
    ]
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
