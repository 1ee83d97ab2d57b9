"""Reader of the official Hypersim layout, and its preparation as a folder data set.

    <src>/metadata_images_split_scene_v1.csv        scene, camera, frame, released?, split
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
import math
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.optional import require
from e2e_deploy.train.encoding import Array, decode_normals
from e2e_deploy.train.files import read_picture
from e2e_deploy.train.folder_spec import FolderSpec
from e2e_deploy.train.prepare import Job, OnBad, PrepareReport, Progress, prepare
from e2e_deploy.train.resize import fit
from e2e_deploy.train.sample import Camera, Sample, ray_to_planar, valid_depth

METADATA = "metadata_images_split_scene_v1.csv"
METADATA_FIELDS = (
    "scene_name",
    "camera_name",
    "frame_id",
    "included_in_public_release",
    "split_partition_name",
)
FOCAL_PX, FOCAL_WIDTH = 886.81, 1024
"""The focal length that the recipe uses for every scene, at 1024 x 768."""
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
    progress: Progress | None = None,
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
        progress: called with (done, total).

    Raises:
        DataError: the CSV is missing or not Hypersim's; nothing was found; a bad sample with "stop".
        UsageError: ``dst`` was prepared with other settings.
        UnavailableError: h5py is not installed.
    """
    require("h5py", "train")
    jobs, num_absent = hypersim_jobs(Path(src), with_normals=with_normals)
    spec = FolderSpec(
        name="hypersim",
        depth_format="png16",
        unit_m=0.001,
        max_m=MAX_DEPTH_M,
        normals_format="png8" if with_normals else None,
    )
    return prepare(
        jobs,
        partial(read_hypersim, size=size),
        Path(dst),
        spec,
        size=size,
        num_absent=num_absent,
        workers=workers,
        on_bad=on_bad,
        progress=progress,
    )


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


def read_hypersim(job: Job, size: tuple[int, int] = SIZE) -> Sample:
    """Read, convert and resize one image.

    Raises:
        DataError: a file is missing or damaged, or the sizes do not fit together.
    """
    color_path, depth_path, entity_path, *normals_path = job.sources
    color = _read_hdf5(color_path, ndim=3).astype(np.float32)
    known = _read_hdf5(entity_path, ndim=2) != -1
    distance_m = _read_hdf5(depth_path, ndim=2).astype(np.float32)
    shapes = {color.shape[:2], known.shape, distance_m.shape}
    camera = hypersim_camera(*distance_m.shape)
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
        normals = face_camera(decode_normals(stored), camera) * known[..., None]
    usable = known & valid_depth(distance_m)
    depth_m = ray_to_planar(np.where(usable, distance_m, np.float32(0)), camera)
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


def face_camera(normals: npt.NDArray[np.float32], camera: Camera) -> npt.NDArray[np.float32]:
    """Turn normals (x right, y up, z back) that point away from the camera; Hypersim's orientation varies."""
    height, width = normals.shape[:2]
    x = (np.arange(width) - camera.cx) / camera.fx
    y = ((np.arange(height) - camera.cy) / camera.fy)[:, None]
    # The ray through a pixel is (x, -y, -1); a visible surface looks against it.
    along_ray = normals[..., 0] * x - normals[..., 1] * y - normals[..., 2]
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
