"""Layouts of the four normals sets: names, stored numbers, axes and masks, as DSINE's archive has them.

Knows: what ``DSINE/data/datasets/*`` and ``DSINE/projects/dsine/test.py`` of E2E-FT's repository do, also to the
picture. Does not know: metrics, and where files lie.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.names import SetName
from e2e_deploy.train.data.encoding import unit_or_zero
from e2e_deploy.train.data.files import decode_picture, decode_rgb, read_array
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.protocol.layouts.pairs import Layout
from e2e_deploy.train.protocol.layouts.set_files import SetFiles

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
FROM_LEFT_UP_BACK = np.array([-1.0, 1.0, 1.0], np.float32)
"""DSINE's axes (x left, y up, z toward the viewer) to ours: x right."""
SHORTEST = 0.5
"""An EXR holds a normal where the vector is longer than this."""

STRETCHED = "pictures as published: normalised for ImageNet, then stretched to their own range"
PLAIN = (
    "pictures as they are; the published ones are normalised for ImageNet and stretched to their own range, "
    "which tints them"
)


def published_input(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture as the published evaluation of normals shows it to a model, uint8 [H, W, 3] as it was.

    Its loader normalises by ImageNet's mean and deviation of each channel. What undoes it is not the inverse: the
    smallest and the largest number of all three channels together become 0 and 255, cut to whole numbers. The picture
    is stretched to its own range, and red becomes weaker than blue.
    """
    normalised = (rgb.astype(np.float32) / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
    low, high = float(normalised.min()), float(normalised.max())
    # They are never the same: no byte of one channel normalises to what a byte of another does.
    stretched = (normalised - np.float32(low)) / np.float32(high - low) * np.float32(255)
    return stretched.astype(np.uint8)


def layout(name: SetName, *, stretched: bool = True) -> Layout:
    """The layout of the normals set ``name``; ``stretched``: pictures become ``published_input``."""

    def png(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
        stored = decode_picture(files.where(truth[0]), files.read(truth[0]))
        if stored.dtype != np.uint8 or stored.ndim != 3:
            raise DataError(
                f"{files.where(truth[0])}: expected an 8-bit RGB PNG, got {stored.dtype} {stored.shape}"
            )
        known: Mask = np.asarray(stored.any(axis=-1))
        return _sample(files, picture, stored.astype(np.float32) / 127.5 - 1, known, stretched)

    def exr(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
        # By its path: mitsuba's reader never ends at a truncated file that it is given from memory.
        stored = read_array(files.where(truth[0]))
        if stored.ndim != 3 or stored.shape[2] < 3:
            raise DataError(
                f"{files.where(truth[0])}: expected three channels, got an array {stored.shape}"
            )
        vectors = stored[..., :3]
        finite: Mask = np.asarray(np.isfinite(vectors).all(axis=-1))
        vectors = np.where(finite[..., None], vectors, np.float32(0))
        known: Mask = np.linalg.norm(vectors.astype(np.float64), axis=-1) > SHORTEST
        return _sample(files, picture, vectors, known, stretched)

    layouts: dict[str, Layout] = {
        "nyuv2": Layout(r"(?P<stem>test/[^/]+)_img\.png", ("{stem}_normal.png",), png),
        "scannet": Layout(r"(?P<stem>[^/]+/[^/]+)_img\.png", ("{stem}_normal.png",), png),
        "ibims": Layout(r"(?P<stem>ibims/[^/]+)_img\.png", ("{stem}_normal.exr",), exr),
        "sintel": Layout(r"(?P<stem>[^/]+/[^/]+)_img\.png", ("{stem}_normal.exr",), exr),
    }
    return layouts[name]


def _sample(files: SetFiles, picture: str, vectors: Array, known: Mask, stretched: bool) -> Sample:
    path = files.where(picture)
    rgb = decode_rgb(path, files.read(picture))
    if rgb.shape != vectors.shape:
        raise DataError(f"{path}: the picture is {rgb.shape[:2]}, its normals {vectors.shape[:2]}")
    normals = unit_or_zero(np.where(known[..., None], vectors * FROM_LEFT_UP_BACK, 0))
    return Sample(
        rgb=published_input(rgb) if stretched else rgb,
        depth_m=np.zeros(rgb.shape[:2], np.float32),
        normals=normals,
        valid=np.zeros(rgb.shape[:2], bool),
        path=str(path),
    )
