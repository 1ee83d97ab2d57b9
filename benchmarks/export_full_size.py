"""Export of a Stable-Diffusion-2-size checkpoint on this machine: seconds a stage and peak memory.

python benchmarks/export_full_size.py --work DIR [--frame-size 480x640] [--resolution 768]
"""

import argparse
import tempfile
from pathlib import Path

from full_size import full_size_checkpoint
from report import write_result

from e2e_deploy.checkpoint import open_checkpoint
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.frames import parse_size
from e2e_deploy.progress import Stages, peak_memory_gib


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-full-size")
    parser.add_argument("--frame-size", default="480x640")
    parser.add_argument("--resolution", type=int, default=768)
    parser.add_argument("--precision", default="fp32")
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
    graph = bundle.manifest.graphs[0]
    write_result(
        f"export_full_size_{arguments.precision}",
        {
            "parameters": {"unet": 865_921_604, "vae": 83_653_863},
            "frame_size": graph.frame_size,
            "processing_size": graph.processing_size,
            "precision": arguments.precision,
            "stages": [vars(stage) for stage in stages.done],
            "seconds": sum(stage.seconds for stage in stages.done),
            "peak_gib": peak_memory_gib(),
            "bundle_bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
            "verification": [vars(entry) for entry in bundle.manifest.verification],
        },
    )


if __name__ == "__main__":
    main()
