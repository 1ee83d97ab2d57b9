"""From a Stable-Diffusion-2-size checkpoint to TensorRT-RTX engines on this machine: seconds and peak memory.

One export makes the ONNX graph and the first engine, as a user would; then an engine is built for every other target.
The builder has a process of its own: peaks are this process and its children together, looked at ten times a second.

python -m benchmarks.export.build_plans --work DIR [--targets sm89,sm120] [--precision fp16]
"""

import os
import shutil
import tempfile
import threading
from typing import Any

import psutil

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.export.engines.build import build_plans
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.progress import Stages

TARGETS = "sm89,sm75,sm80,sm86,sm120,sm121"


class Peak(threading.Thread):
    """The most memory that this process and its children held together since it was last asked, in GiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._most, self._stop = 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        this = psutil.Process()
        while not self._stop.wait(0.1):
            held = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self._most = max(self._most, held)

    def take_gib(self) -> float:
        """The peak in GiB; it starts anew."""
        most, self._most = self._most, 0
        return most / 2**30


def facts(bundle: Bundle, entry: Any, stages: Stages, peak_gib: float) -> dict[str, Any]:
    """One engine's row."""
    return {
        "target": entry.target,
        "version": entry.version,
        "build_seconds": entry.seconds,
        "seconds": stages.done[-1].seconds,  # with hashing, writing and caching
        "bytes": (bundle.root / entry.file).stat().st_size,
        "peak_gib": peak_gib,
        "options": entry.options,
    }


def build(bundle: Bundle, target: str, stages: Stages, peak: Peak) -> dict[str, Any]:
    """One engine, thrown away at once; or why the library refuses it."""
    shutil.rmtree(bundle.root / "plans")  # each is as large as the model
    peak.take_gib()
    try:
        built = build_plans(
            bundle.root, bundle.manifest, engine="tensorrt-rtx", targets=[target], stages=stages
        )
    except BuildError as error:
        return {"target": target, "refused": str(error)}
    return facts(bundle, built.entries[0], stages, peak.take_gib())


def main() -> None:
    """Make the checkpoint if needed, export it, build an engine for each target, write the result."""
    parser = full_size.options(__doc__, "fp16")
    parser.add_argument("--targets", default=TARGETS, help="the first is built by the export")
    arguments = parser.parse_args()
    first, *others = arguments.targets.split(",")
    full_size.full_size_checkpoint(arguments.work)
    stages, peak = Stages(), Peak()
    with tempfile.TemporaryDirectory(dir=arguments.work) as cache:  # no engine of an earlier run
        os.environ["XDG_CACHE_HOME"] = cache
        bundle = full_size.export(arguments, stages, engine="tensorrt-rtx", targets=[first])
        seconds, peak_gib = sum(s.seconds for s in stages.done), peak.take_gib()
        (entry,) = bundle.manifest.plans
        engines = [facts(bundle, entry, stages, peak_gib)]
        engines += [build(bundle, target, stages, peak) for target in others]
    shutil.rmtree(bundle.root)
    write_result(
        f"build_engines_{arguments.precision}",
        {
            "frame_size": bundle.manifest.graphs[0].frame_size,
            "processing_size": bundle.manifest.graphs[0].processing_size,
            "precision": arguments.precision,
            "opset": bundle.manifest.opset,
            "parity": bundle.manifest.verification[0].parity,
            "stages": [vars(stage) for stage in stages.done],
            "onnx_and_first_engine_seconds": seconds,
            "onnx_and_first_engine_peak_gib": peak_gib,
            "engines": engines,
        },
    )


if __name__ == "__main__":
    main()
