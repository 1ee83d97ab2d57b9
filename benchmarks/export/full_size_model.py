"""Export of a Stable-Diffusion-2-size checkpoint on this machine: seconds a stage and peak memory.

python -m benchmarks.export.full_size_model --work DIR [--frame-size 480x640] [--resolution 768]
"""

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.progress import Stages


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = full_size.options(__doc__, "fp32")
    arguments = parser.parse_args()
    stages = Stages()
    bundle = full_size.export(arguments, stages)
    checkpoint = arguments.work / "checkpoint"
    found = full_size.exported(bundle, checkpoint, stages)
    write_result(f"export_full_size_{arguments.precision}", found)


if __name__ == "__main__":
    main()
