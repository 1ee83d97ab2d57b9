"""Tiny data sets in the exact official layouts, whole and broken, with the truth they encode."""

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np

from e2e_deploy.train.data.encoding import encode_depth, encode_normals
from e2e_deploy.train.data.folder_spec import FolderSpec, save_spec

HYPERSIM_SIZE = (48, 64)
HYPERSIM_FOCAL = 886.81 * 64 / 1024


@dataclass
class PlaneScene:
    """A textured plane seen by a Hypersim camera of 48 x 64 pixels."""

    depth_m: np.ndarray
    distance_m: np.ndarray
    normals: np.ndarray
    color: np.ndarray
    entities: np.ndarray


def plane_scene(seed=0, size=HYPERSIM_SIZE) -> PlaneScene:
    """Planar depth about 3 m; the plane leans right and up; some pixels have no entity."""
    rng = np.random.default_rng(seed)
    height, width = size
    x = (np.arange(width) - (width - 1) / 2) / HYPERSIM_FOCAL
    y = ((np.arange(height) - (height - 1) / 2) / HYPERSIM_FOCAL)[:, None]
    normal = np.array([-0.3, 0.4, 1.0]) / np.linalg.norm([-0.3, 0.4, 1.0])
    # In x right, y up, z back a pixel looks along (x, -y, -1).
    depth = 3.0 / -(normal[0] * x - normal[1] * y - normal[2])
    color = rng.uniform(0, 4, (height, width, 3))
    entities = np.ones(size, np.int32)
    entities[:4, :6] = -1
    return PlaneScene(
        depth_m=depth.astype(np.float32),
        distance_m=(depth * np.sqrt(1 + x**2 + y**2)).astype(np.float32),
        normals=np.broadcast_to(normal, (*size, 3)).astype(np.float32),
        color=color.astype(np.float32),
        entities=entities,
    )


def write_hdf5(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", data=array)


def hypersim_file(root: Path, frame: int, kind: str, scene="ai_001_001", camera="cam_00") -> Path:
    folder = "final" if kind == "color" else "geometry"
    images = root / scene / "images" / f"scene_{camera}_{folder}_hdf5"
    return images / f"frame.{frame:04d}.{kind}.hdf5"


def write_hypersim(root: Path, num_frames=3) -> Path:
    """Frames of one scene (the first is val, the rest train), plus rows that are not there.

    Half of the stored normals point away from the camera, as in the real data.
    """
    rows = []
    for frame in range(num_frames):
        scene = plane_scene(frame)
        stored = scene.normals.astype(np.float16)
        stored[:, ::2] *= -1
        write_hdf5(hypersim_file(root, frame, "color"), scene.color.astype(np.float16))
        write_hdf5(hypersim_file(root, frame, "depth_meters"), scene.distance_m)
        write_hdf5(hypersim_file(root, frame, "render_entity_id"), scene.entities)
        write_hdf5(hypersim_file(root, frame, "normal_cam"), stored)
        split = "train" if frame else "val"
        rows.append(["ai_001_001", "cam_00", frame, "True", "", split])
    rows.append(["ai_001_001", "cam_00", 99, "False", "CONTENT FLAGGED FOR REMOVAL", ""])
    rows.append(["ai_055_010", "cam_01", 7, "True", "", "test"])
    header = "scene_name camera_name frame_id included_in_public_release exclude_reason"
    with (root / "metadata_images_split_scene_v1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header.split(), "split_partition_name"])
        writer.writerows(rows)
    return root


def write_normal_preview(root: Path, frame: int) -> None:
    """Replace a frame's normal_cam.hdf5 by the 8-bit preview picture."""
    source = hypersim_file(root, frame, "normal_cam")
    with h5py.File(source) as file:
        normals = file["dataset"][()].astype(np.float32)
    source.unlink()
    preview = (
        source.parent.parent / "scene_cam_00_geometry_preview" / f"frame.{frame:04d}.normal_cam.png"
    )
    preview.parent.mkdir(exist_ok=True)
    stored = np.rint((normals + 1) * 127.5).astype(np.uint8)
    cv2.imwrite(str(preview), stored[..., ::-1])


BREAKAGES = {
    "truncated": "color.hdf5: not a readable HDF5",
    "zeros": "no valid depth",
    "nan": "no valid depth",
    "mismatch": "sizes of colour, depth, entities and normals differ",
    "missing": "depth_meters.hdf5: missing",
    "wrong key": "not a readable HDF5 file with the key",
}


def break_hypersim(root: Path, frame: int, breakage: str) -> None:
    """Damage one frame in one of the ways of ``BREAKAGES``."""
    color, depth = hypersim_file(root, frame, "color"), hypersim_file(root, frame, "depth_meters")
    if breakage == "truncated":
        color.write_bytes(color.read_bytes()[: color.stat().st_size // 2])
    elif breakage == "zeros":
        write_hdf5(depth, np.zeros(HYPERSIM_SIZE, np.float32))
    elif breakage == "nan":
        write_hdf5(depth, np.full(HYPERSIM_SIZE, np.nan, np.float32))
    elif breakage == "mismatch":
        write_hdf5(depth, np.ones((24, 32), np.float32))
    elif breakage == "missing":
        depth.unlink()
    elif breakage == "wrong key":
        with h5py.File(depth, "w") as file:
            file.create_dataset("data", data=np.ones(HYPERSIM_SIZE))


def vkitti2_depth_cm() -> np.ndarray:
    """A road below the horizon, a wall at 50 m on the right, sky above (65535)."""
    height, width = 375, 1242
    below = np.maximum(np.arange(height) - 187.0, 1e-3)[:, None]
    road = np.broadcast_to(1.5 * 725.0087 / below, (height, width))
    depth_cm = np.where(road < 120, road * 100, 65535)
    right = (np.arange(width) > 900) & (np.arange(height) > 60)[:, None]
    return np.where(right, np.minimum(depth_cm, 5000), depth_cm).round().astype(np.uint16)


def vkitti2_files(root: Path, number: int, scene="Scene01", weather="fog") -> tuple[Path, Path]:
    frames = root / scene / weather / "frames"
    return (
        frames / "rgb" / "Camera_0" / f"rgb_{number:05d}.jpg",
        frames / "depth" / "Camera_0" / f"depth_{number:05d}.png",
    )


def write_vkitti2(root: Path, scenes=("Scene01", "Scene02"), weather="fog") -> Path:
    """One frame per scene, at the official size."""
    rng = np.random.default_rng(0)
    for scene in scenes:
        rgb, depth = vkitti2_files(root, 0, scene, weather)
        rgb.parent.mkdir(parents=True)
        depth.parent.mkdir(parents=True)
        coarse = rng.integers(0, 255, (12, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(rgb), cv2.resize(coarse, (1242, 375)))
        cv2.imwrite(str(depth), vkitti2_depth_cm())
    return root


def write_folder(
    root: Path, *, num_samples=6, size=(48, 64), splits=("train",), name="tiny", **spec
) -> Path:
    """A folder data set of leaning planes; colour and depth tell the samples apart."""
    fields = {"depth_format": "png16", "unit_m": 0.001, "normals_format": "png8"}
    folder_spec = FolderSpec(name=name, **(fields | spec))
    for split in splits:
        for index in range(num_samples):
            scene = plane_scene(index, size)
            rgb = np.clip(scene.color * 60, 0, 255).astype(np.uint8)
            rgb[:, : size[1] // 2] //= 2
            write_sample(
                root / split,
                f"s{index:03d}",
                rgb,
                scene.depth_m + index,
                scene.normals,
                folder_spec,
            )
    save_spec(root, folder_spec)
    return root


def write_pictures(root, *, num_samples=3, mask="png8", matte="png8", split="train", size=(16, 24)):
    """Halves in two colours, and an opacity that rises to the right."""
    rng = np.random.default_rng(0)
    spec = FolderSpec(name="pictures", mask_format=mask, matte_format=matte)
    for index in range(num_samples):
        rgb = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        colours = np.zeros((*size, 3))
        middle = size[1] // 2
        colours[:, :middle], colours[:, middle:] = (1, 0.2 * index, 0), (0, 0, 1)
        opacity = np.broadcast_to(np.linspace(0, 1, size[1]), size)
        for kind, values, form in (("rgb", rgb / 255, "png8"), ("mask", colours, mask)) + (
            (("matte", opacity, matte),) if matte else ()
        ):
            folder = root / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            if form == "npy":
                np.save(folder / f"s{index}.npy", values.astype(np.float32))
                continue
            top = {"png8": 255, "png16": 65535}[form]
            stored = np.rint(values * top).astype(f"uint{form[3:]}")
            cv2.imwrite(
                str(folder / f"s{index}.png"), stored[..., ::-1] if stored.ndim == 3 else stored
            )
    save_spec(root, spec)
    return root


def write_sample(folder: Path, stem: str, rgb, depth_m, normals, spec: FolderSpec) -> None:
    """Write one sample as ``spec`` says, with OpenCV, NumPy and mitsuba rather than our writers."""
    for kind in ("rgb", "depth", "normals"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "rgb" / f"{stem}.png"), rgb[..., ::-1])
    write_array(
        folder / "depth" / stem,
        spec.depth_format,
        encode_depth(depth_m, spec.unit_m)
        if spec.depth_format == "png16"
        else depth_m / spec.unit_m,
    )
    if spec.normals_format in ("png8", "png16"):
        stored = encode_normals(normals)
        if spec.normals_format == "png16":
            stored = np.rint((normals + 1) * 32767.5).astype(np.uint16)
        write_array(folder / "normals" / stem, spec.normals_format, stored)
    elif spec.normals_format:
        write_array(folder / "normals" / stem, spec.normals_format, normals)


def write_array(stem: Path, kind: str, array: np.ndarray) -> None:
    if kind == "npy":
        np.save(f"{stem}.npy", array.astype(np.float32))
    elif kind == "exr":
        import mitsuba

        mitsuba.Bitmap(np.ascontiguousarray(array.reshape(*array.shape[:2], -1), np.float32)).write(
            f"{stem}.exr"
        )
    else:
        cv2.imwrite(f"{stem}.png", array if array.ndim == 2 else array[..., ::-1])
