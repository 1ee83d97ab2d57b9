"""From a checkpoint to depth without the command line; needs pip install 'e2e-deploy[export]'.

python examples/export.py checkpoint-or-hub-id photo.jpg [folder of the bundle]
"""

import sys
from pathlib import Path

import e2e_deploy as e2e


def main(checkpoint: str, photo: str, out: str = "my-bundle") -> None:
    """Export for frames of the photo's size, check the bundle as any machine can, run it."""
    height, width, _ = e2e.read_picture(photo).shape
    bundle = e2e.export_bundle(checkpoint, out, frame_sizes=[(height, width)])
    for verdict in e2e.verify_bundle(bundle).verdicts:
        error = verdict.parity.relative
        print(
            f"{verdict.backend}: relative error {error:.1e}",
            *verdict.failures or ["inside its limit"],
        )
    report = e2e.run(photo, bundle, out=Path(out).parent / "results", formats=["npy", "color"])
    for file in report.files:
        print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
