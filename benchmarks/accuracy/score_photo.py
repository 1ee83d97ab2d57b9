"""Accuracy of e2e-tiny depth on the one real photo with true depth that comes with a package, and how others look.

The Motorcycle of Middlebury 2014 (scikit-image), through an exported fp32 bundle in ONNX Runtime. The other photos of
scikit-image have no truth: --sheet writes a picture of all, to be looked at. Models that are named are scored beside
the packaged one, and then nothing is kept.

    python -m benchmarks.accuracy.score_photo [MODEL ...] [--sheet photos.png]
"""

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e
from benchmarks.report import write_result
from e2e_deploy.colormap import colour_depth
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.metrics import align_scale_shift, depth_metrics
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.train.data.files import write_picture
from e2e_deploy.verbs.show import Motorcycle, constant_abs_rel, find_motorcycle

Picture = npt.NDArray[np.uint8]
OTHERS = ("astronaut", "coffee", "chelsea", "rocket", "camera")
"""Photos in scikit-image's package: a person, a cup, a cat, towers at night, a man in grey."""
TILE_WIDTH = 240


def photos() -> list[Picture]:
    """uint8 RGB [H, W, 3] each."""
    data: Any = importlib.import_module("skimage.data")
    found = [np.asarray(getattr(data, name)()) for name in OTHERS]
    return [one if one.ndim == 3 else one[..., None].repeat(3, -1) for one in found]


def found_on(engine: Engine, photo: Motorcycle) -> dict[str, float]:
    """Metrics after the best scale and shift."""
    metrics = depth_metrics(engine(photo.rgb), photo.depth_m, photo.valid)
    return {"abs_rel": metrics.abs_rel, "delta1": metrics.delta1}


def sheet(engines: Sequence[Engine], photo: Motorcycle, others: Sequence[Picture]) -> Picture:
    """A row a photo: picture, the depth of each engine, and the truth where there is one."""
    low, high = np.percentile(photo.depth_m[photo.valid], (2, 98))
    truth = painted(photo.depth_m, float(low), float(high))
    truth[~photo.valid] = 0
    rows = []
    for picture in (photo.rgb, *others):
        tiles = [tile(picture)]
        for engine in engines:
            depth = engine.predict(picture)
            if picture is photo.rgb:
                scale, shift = align_scale_shift(depth, photo.depth_m, photo.valid)
                tiles.append(tile(painted(depth * scale + shift, float(low), float(high))))
            else:
                near, far = np.percentile(depth, (2, 98))
                tiles.append(tile(painted(depth, float(near), float(far))))
        tiles.append(tile(truth) if picture is photo.rgb else np.full_like(tiles[0], 255))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def painted(depth: npt.NDArray[Any], low: float, high: float) -> Picture:
    """Spectral colours, near is red."""
    return colour_depth(depth.astype(np.float32), "spectral", low, high)


def tile(picture: Picture) -> Picture:
    """TILE_WIDTH wide."""
    height = round(TILE_WIDTH * picture.shape[0] / picture.shape[1])
    return np.asarray(cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA))


def main() -> None:
    """Measure; write the result of the packaged model, or compare others with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="folders of models to compare with the packaged")
    parser.add_argument("--sheet", type=Path, help="PNG")
    arguments = parser.parse_args()
    photo = find_motorcycle()
    if photo is None:
        raise SystemExit("the photo is in scikit-image: pip install scikit-image")
    others = photos() if arguments.sheet else []
    size = photo.rgb.shape[:2]
    folders = [bundled_checkpoint("depth"), *map(Path, arguments.models)]
    engines, found = list[Engine](), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as work:
        for number, folder in enumerate(folders):
            out = Path(work) / f"{number}"
            bundle = export_bundle(open_checkpoint(folder), out, frame_sizes=[size])
            engines.append(e2e.load(bundle, backend="onnxruntime", device="cpu"))
            found.append(found_on(engines[-1], photo))
            print(f"{folder}: AbsRel {found[-1]['abs_rel']:.4f}  delta1 {found[-1]['delta1']:.4f}")
        if arguments.sheet:
            write_picture(arguments.sheet, sheet(engines, photo, others))
        for engine in engines:
            engine.close()
    if not arguments.models:
        write_result(
            "e2e_tiny_photo",
            {
                "frame_size": list(size),
                "processing_size": bundle.manifest.graphs[0].processing_size,
                **found[0],
                "constant_abs_rel": constant_abs_rel(photo),
            },
        )


if __name__ == "__main__":
    main()
