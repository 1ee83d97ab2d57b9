"""Reader of the official Hypersim layout, and its preparation as a folder data set.

    <src>/metadata_images_split_scene_v1.csv        scene, camera, frame, released?, split
    <src>/metadata_camera_parameters.csv            each scene's camera, if it is there
    <src>/<scene>/images/scene_<camera>_final_hdf5/frame.0000.color.hdf5
    <src>/<scene>/images/scene_<camera>_geometry_hdf5/frame.0000.depth_meters.hdf5
                                                      frame.0000.render_entity_id.hdf5
                                                      frame.0000.normal_cam.hdf5
    <src>/<scene>/images/scene_<camera>_geometry_preview/frame.0000.normal_cam.png   (instead)

Knows: that layout, tone mapping, ray distance, orientation of normals (model-and-training facts of
Marigold, GeoWizard and E2E-FT). Does not know: training. Images are stored at the training size,
480 x 640, which makes loading fast and the set a quarter as large; depth above 65 m is invalid.
"""

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.names import OnBad
from e2e_deploy.packages import require
from e2e_deploy.system.text import clean
from e2e_deploy.train.data.encoding import Array, decode_normals
from e2e_deploy.train.data.files import read_bytes, read_picture
from e2e_deploy.train.data.folder_spec import FolderSpec
from e2e_deploy.train.data.resize import fit
from e2e_deploy.train.data.sample import Camera, Sample, valid_depth
from e2e_deploy.train.preparation.conversion import Job, PrepareReport, Progress, convert_all

Float64 = npt.NDArray[np.float64]

METADATA = "metadata_images_split_scene_v1.csv"
CAMERAS = "metadata_camera_parameters.csv"
CAMERA_FIELDS = tuple(f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3))
METADATA_FIELDS = (
    "scene_name",
    "camera_name",
    "frame_id",
    "included_in_public_release",
    "split_partition_name",
)
NAMES = {
    "scene_name": r"ai_\d{3}_\d{3}",
    "camera_name": r"cam_\d{2}",
    "frame_id": r"\d{1,6}",
    "split_partition_name": r"train|val|test",
}
"""They become names of files and folders, so nothing else is taken from the table."""

FOCAL_PX, FOCAL_WIDTH = 886.81, 1024
"""The focal length that the recipe uses for every scene, at 1024 x 768; where the table of cameras is missing."""
MAX_DEPTH_M = 65.0
SIZE = (480, 640)

BRIGHT_PERCENTILE, BRIGHT_TARGET, GAMMA = 90, 0.8, 1 / 2.2
"""Hypersim's tone mapping: this percentile of brightness becomes 0.8 after the gamma curve."""


def prepare_hypersim(
    src: Path | str,
    dst: Path | str,
    *,
    size: tuple[int, int] = SIZE,
    with_normals: bool = True,
    workers: int = 1,
    on_bad: OnBad = "skip",
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Write the released images of ``src`` as the folder data set ``dst``.

    Images whose scene was not downloaded are counted as absent; an image with only some of its files
    is a bad sample.

    Args:
        src: folder with the metadata CSV and the scenes.
        dst: folder data set to write.
        size: stored (height, width).
        with_normals: also store camera normals; they must then exist for every image.
        workers: processes.
        on_bad: skip and report, or stop.
        on_progress: called with (done, total).

    Raises:
        DataError: the CSV is missing or not Hypersim's; nothing was found; a bad sample with "stop".
        UsageError: ``dst`` was prepared with other settings.
        UnavailableError: h5py is not installed.
    """
    require("h5py", "train")
    jobs, num_absent = hypersim_jobs(Path(src), with_normals=with_normals)
    cameras = hypersim_cameras(Path(src))
    spec = FolderSpec(
        # Another name, so that a set prepared with the one is not continued with the other.
        name="hypersim with scene cameras" if cameras else "hypersim",
        depth_format="png16",
        unit_m=0.001,
        max_m=MAX_DEPTH_M,
        normals_format="png8" if with_normals else None,
    )
    report = convert_all(
        jobs,
        partial(read_hypersim, size=size, cameras=cameras),
        Path(dst),
        spec,
        size=size,
        num_absent=num_absent,
        workers=workers,
        on_bad=on_bad,
        on_progress=on_progress,
    )
    assumed = sorted({scene for job in jobs if (scene := _scene(job)) not in cameras})
    if not assumed:
        return report
    note = (
        f"the recipe's camera (focal length {FOCAL_PX:g} px at a width of {FOCAL_WIDTH}) was assumed for "
        f"{len(assumed)} scenes, first {assumed[0]}: {Path(src) / CAMERAS} (from contrib/mikeroberts3000 of "
        "apple/ml-hypersim) does not have theirs"
    )
    return replace(report, notes=(note,))


def hypersim_cameras(src: Path) -> dict[str, Float64]:
    """Scene to the 3 x 3 matrix from image coordinates to rays (``hypersim_rays``); empty without the table.

    Raises:
        DataError: the table is not Hypersim's.
    """
    path = src / CAMERAS
    if not path.exists():
        return {}
    rows = csv.DictReader(io.StringIO(read_bytes(path).decode(errors="replace")))
    cameras = {}
    try:
        for row in rows:
            matrix = np.array([float(row[key]) for key in CAMERA_FIELDS]).reshape(3, 3)
            if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
                raise ValueError(f"the camera of {clean(row['scene_name'], 40)} is no camera")
            cameras[row["scene_name"]] = matrix
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not Hypersim's table of cameras ({error})") from None
    return cameras


def _scene(job: Job) -> str:
    return "_".join(job.stem.split("_")[:3])  # ai_001_001_cam_00_0000


def hypersim_jobs(src: Path, *, with_normals: bool = True) -> tuple[list[Job], int]:
    """Released images below ``src``, and how many released images are not there.

    Sources of a job: color, depth_meters, render_entity_id and, if asked for, normal_cam.
    """
    path = src / METADATA
    if not path.is_file():
        raise DataError(
            f"{path} is missing: copy it from evermotion_dataset/analysis of apple/ml-hypersim"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = set(METADATA_FIELDS) - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: the columns {', '.join(sorted(missing))} are missing")
        rows = [row for row in reader if row["included_in_public_release"] == "True"]
    jobs, num_absent = [], 0
    for row in rows:
        wrong = [
            f"{key} {clean(row[key] or '', 40)!r}" for key in NAMES if not _is_name(key, row[key])
        ]
        if wrong:
            raise DataError(f"{path}: {wrong[0]} is not what Hypersim calls one")
        scene, camera, frame = row["scene_name"], row["camera_name"], int(row["frame_id"])
        images = src / scene / "images"
        color = images / f"scene_{camera}_final_hdf5" / f"frame.{frame:04d}.color.hdf5"
        geometry = images / f"scene_{camera}_geometry_hdf5"
        depth = geometry / f"frame.{frame:04d}.depth_meters.hdf5"
        sources = [color, depth, geometry / f"frame.{frame:04d}.render_entity_id.hdf5"]
        if not any(source.exists() for source in sources):
            num_absent += 1
            continue
        if with_normals:
            normals = geometry / f"frame.{frame:04d}.normal_cam.hdf5"
            preview = (
                images / f"scene_{camera}_geometry_preview" / f"frame.{frame:04d}.normal_cam.png"
            )
            sources.append(preview if preview.exists() and not normals.exists() else normals)
        stem = f"{scene}_{camera}_{frame:04d}"
        jobs.append(Job(row["split_partition_name"], stem, tuple(sources)))
    return jobs, num_absent


def _is_name(key: str, value: str | None) -> bool:
    return re.fullmatch(NAMES[key], value or "") is not None


def read_hypersim(
    job: Job, size: tuple[int, int] = SIZE, cameras: Mapping[str, Float64] | None = None
) -> Sample:
    """Read, convert and resize one image; ``cameras`` as of ``hypersim_cameras``.

    Raises:
        DataError: a file is missing or damaged, or the sizes do not fit together.
    """
    color_path, depth_path, entity_path, *normals_path = job.sources
    color = _read_hdf5(color_path, ndim=3).astype(np.float32)
    known = _read_hdf5(entity_path, ndim=2) != -1
    distance_m = _read_hdf5(depth_path, ndim=2).astype(np.float32)
    shapes = {color.shape[:2], known.shape, distance_m.shape}
    height, width = distance_m.shape
    rays = hypersim_rays(height, width, (cameras or {}).get(_scene(job)))
    normals = None
    if normals_path:
        path = normals_path[0]
        stored = read_picture(path) if path.suffix == ".png" else _read_hdf5(path, ndim=3)
        shapes.add(stored.shape[:2])
    if len(shapes) != 1:
        raise DataError(
            f"{color_path}: sizes of colour, depth, entities and normals differ {shapes}"
        )
    if normals_path:
        normals = face_camera(decode_normals(stored), rays) * known[..., None]
    usable = known & valid_depth(distance_m)
    along_axis = -rays[..., 2] / np.linalg.norm(rays, axis=-1)
    depth_m = (np.where(usable, distance_m, 0) * along_axis).astype(np.float32)
    sample = Sample(
        rgb=tone_map(color, known),
        depth_m=depth_m,
        normals=normals,
        valid=valid_depth(depth_m, max_m=MAX_DEPTH_M),
        path=str(color_path),
    )
    return fit(sample, *size)


def hypersim_camera(height: int, width: int) -> Camera:
    """The recipe's camera, scaled to an image of this width; the axis is the image's centre."""
    focal = FOCAL_PX * width / FOCAL_WIDTH
    return Camera(fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


def hypersim_rays(height: int, width: int, camera: Float64 | None = None) -> Float64:
    """Direction of each pixel from the camera, [H, W, 3] of any length: x right, y up, z back.

    Args:
        height: of the image.
        width: of the image.
        camera: maps (u, v, 1) to a ray, u from -1 at the left edge to 1, v from -1 at the lower edge to 1
            (M_cam_from_uv of apple/ml-hypersim; scenes with tilt-shift lenses have entries anywhere). None:
            ``hypersim_camera``.
    """
    if camera is None:
        plain = hypersim_camera(height, width)
        camera = np.diag([width / 2 / plain.fx, height / 2 / plain.fy, -1.0])
    u = (2 * np.arange(width) + 1) / width - 1
    v = (1 - (2 * np.arange(height) + 1) / height)[:, None]
    rays: Float64 = np.stack(np.broadcast_arrays(u, v, 1.0), axis=-1) @ camera.T
    return rays


def tone_map(color: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """HDR colour [H, W, 3] to 8-bit RGB, exposed by the brightness of the ``known`` pixels."""
    color = np.nan_to_num(color.astype(np.float64), posinf=0.0, neginf=0.0)
    scale = 1.0
    if known.any():
        brightness = color @ np.array([0.30, 0.59, 0.11])
        bright = float(np.percentile(brightness[known], BRIGHT_PERCENTILE))
        scale = 0.0 if bright < 1e-4 else math.pow(BRIGHT_TARGET, 1 / GAMMA) / bright
    mapped = np.clip(np.power(np.maximum(scale * color, 0.0), GAMMA), 0.0, 1.0)
    rgb: npt.NDArray[np.uint8] = np.rint(mapped * 255).astype(np.uint8)
    return rgb


def face_camera(normals: npt.NDArray[np.float32], rays: Float64) -> npt.NDArray[np.float32]:
    """Turn normals that point away from the camera, along their pixel's ray; Hypersim's orientation varies."""
    along_ray = (normals * rays).sum(axis=-1)
    return np.where(along_ray[..., None] > 0, -normals, normals).astype(np.float32)


def _read_hdf5(path: Path, *, ndim: int) -> Array:
    if not path.is_file():
        raise DataError(f"{path}: missing, the image has only some of its files")
    try:
        with require("h5py", "train").File(path, "r") as file:
            array: Array = file["dataset"][()]
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{path}: not a readable HDF5 file with the key 'dataset' ({error})"
        ) from error
    if array.ndim != ndim or (ndim == 3 and array.shape[2] != 3):
        raise DataError(f"{path}: unexpected shape {array.shape}")
    return array
