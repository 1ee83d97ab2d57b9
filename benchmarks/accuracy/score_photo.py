"""Accuracy of the packaged e2e-tiny on the one real photo with true depth that comes with a package.

The Motorcycle of Middlebury 2014 (scikit-image), through an exported fp32 bundle in ONNX Runtime.

    python -m benchmarks.accuracy.score_photo
"""

import tempfile
from pathlib import Path

import e2e_deploy as e2e
from benchmarks.report import write_result
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.metrics import depth_metrics
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.verbs.show import constant_abs_rel, find_motorcycle


def main() -> None:
    """Measure and write the result."""
    photo = find_motorcycle()
    if photo is None:
        raise SystemExit("the photo is in scikit-image: pip install scikit-image")
    size = photo.rgb.shape[:2]
    with tempfile.TemporaryDirectory() as work:
        checkpoint = open_checkpoint(bundled_checkpoint("depth"))
        bundle = export_bundle(checkpoint, Path(work) / "bundle", frame_sizes=[size])
        with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
            found = depth_metrics(engine(photo.rgb), photo.depth_m, photo.valid)
    write_result(
        "e2e_tiny_photo",
        {
            "frame_size": list(size),
            "processing_size": bundle.manifest.graphs[0].processing_size,
            "abs_rel": found.abs_rel,
            "delta1": found.delta1,
            "constant_abs_rel": constant_abs_rel(photo),
        },
    )


if __name__ == "__main__":
    main()
