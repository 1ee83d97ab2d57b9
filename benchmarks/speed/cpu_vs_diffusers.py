"""Our engine against diffusers' Marigold pipeline at one step: same checkpoint, same frame, same machine, one run.

Both take a uint8 frame on the host and give depth on the host. They are timed in turn, frame by frame, so that whatever
else the machine does hits both.

    python -m benchmarks.speed.cpu_vs_diffusers [--size 384x512] [--rounds 15]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import e2e_deploy as e2e
from benchmarks.gain import gain
from benchmarks.report import write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.frames import parse_size
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.runtime.checks.peer import DiffusersPeer
from e2e_deploy.runtime.checks.turns import in_turn
from e2e_deploy.runtime.timing import summarise

PAUSE_S = 0.5
"""Before each call: the other side's threads spin for a while after theirs, and would hold a core."""


def main() -> None:
    """Export, time both in turn, check that they agree, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="384x512")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    height, width = parse_size(arguments.size)
    folder = bundled_checkpoint("depth")
    frames = list(reference_frames((height, width)))
    with_diffusers = DiffusersPeer(open_checkpoint(folder))
    with tempfile.TemporaryDirectory() as work:
        bundle = export_bundle(
            open_checkpoint(folder),
            Path(work) / "bundle",
            frame_sizes=[(height, width)],
            resolution=0,
        )
        with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
            difference = max(float(np.abs(engine(f) - with_diffusers(f)).max()) for f in frames)
            ours, theirs = in_turn(
                (engine, with_diffusers), frames, count=arguments.rounds, warm_up=2, pause_s=PAUSE_S
            )
            ours_ms, theirs_ms = summarise(ours), summarise(theirs)
            write_result(
                "cpu_vs_diffusers",
                {
                    "checkpoint": "e2e-tiny-depth",
                    "size": [height, width],
                    "rounds": arguments.rounds,
                    "engine": engine.describe(),
                    "ours": vars(ours_ms),
                    "diffusers": vars(theirs_ms),
                    "gain": gain(theirs, ours),
                    "max_abs_difference": difference,
                },
            )


if __name__ == "__main__":
    main()
