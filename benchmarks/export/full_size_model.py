"""Export of a Stable-Diffusion-2-size checkpoint on this machine: seconds a stage and peak memory.

python -m benchmarks.export.full_size_model --work DIR [--frame-size 480x640] [--resolution 768]
"""

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.progress import Stages, peak_memory_gib


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = full_size.options(__doc__, "fp32")
    arguments = parser.parse_args()
    stages = Stages()
    bundle = full_size.export(arguments, stages)
    graph = bundle.manifest.graphs[0]
    write_result(
        f"export_full_size_{arguments.precision}",
        {
            "parameters": full_size.count_parameters(arguments.work / "checkpoint"),
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
