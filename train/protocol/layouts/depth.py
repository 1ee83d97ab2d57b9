"""Layouts of the five depth sets: names, stored numbers, crops and masks, as E2E-FT evaluates them.

Knows: what ``Marigold/src/dataset/*_dataset.py`` of E2E-FT's repository does. Does not know: alignment, metrics.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.names import KittiMask, SetName
from e2e_deploy.train.data.files import decode_npy, decode_picture, decode_rgb
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.protocol.layouts.pairs import Layout
from e2e_deploy.train.protocol.layouts.set_files import SetFiles

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Metres = npt.NDArray[np.float32]
Shares = tuple[tuple[float, float], tuple[float, float]]

NYUV2_SIZE = (480, 640)
EIGEN_NYUV2 = (slice(45, 471), slice(41, 601))
"""Rows and columns of that which count."""
KITTI_SIZE = (352, 1216)
"""What the KITTI benchmark cuts out: the lowest rows and the middle columns."""
KITTI_MASKS: dict[KittiMask, Shares] = {
    "eigen": ((0.3324324, 0.91351351), (0.0359477, 0.96405229)),
    "garg": ((0.40810811, 0.99189189), (0.03594771, 0.96405229)),
}
"""Shares of the height and width of that cut between which depth counts."""


def layout(name: SetName, kitti_mask: KittiMask = "eigen") -> Layout:
    """The layout of the depth set ``name``."""

    def kitti(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
        return _kitti(files, picture, truth, KITTI_MASKS[kitti_mask])

    layouts: dict[str, Layout] = {
        "nyuv2": Layout(
            r"test/(?P<scene>[^/]+)/rgb_(?P<id>[^/]+)\.png",
            ("test/{scene}/depth_{id}.png",),
            _nyuv2,
        ),
        "kitti": Layout(
            r"[^/]+/(?P<drive>[^/]+)/image_02/data/(?P<id>[^/]+)\.png",
            ("{drive}/proj_depth/groundtruth/image_02/{id}.png",),
            kitti,
            truth_is_partial=True,
        ),
        "eth3d": Layout(
            r"rgb/(?P<scene>[^/]+)/images/dslr_images/(?P<id>[^/]+)\.JPG",
            ("depth/{scene}_dslr_depth/{scene}/ground_truth_depth/dslr_images/{id}.JPG",),
            _eth3d,
        ),
        "scannet": Layout(
            r"(?P<scene>[^/]+)/color/(?P<id>[^/]+)\.jpg", ("{scene}/depth/{id}.png",), _scannet
        ),
        "diode": Layout(
            r"(?P<stem>(?:indoors|outdoor)/[^/]+/[^/]+/[^/]+)\.png",
            ("{stem}_depth.npy", "{stem}_depth_mask.npy"),
            _diode,
        ),
    }
    return layouts[name]


def _nyuv2(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
    rgb, depth_m = _rgb(files, picture), _png_depth(files, truth[0], 1000)
    if depth_m.shape != NYUV2_SIZE:
        (height, width), (rows, columns) = depth_m.shape, NYUV2_SIZE
        raise DataError(
            f"{files.where(truth[0])}: it is {width}x{height}, and Eigen's crop is of {columns}x{rows}"
        )
    counted = np.zeros(depth_m.shape, bool)
    counted[EIGEN_NYUV2] = True
    return _sample(files, picture, rgb, depth_m, _inside(depth_m, 1e-3, 10) & counted)


def _kitti(files: SetFiles, picture: str, truth: tuple[str, ...], shares: Shares) -> Sample:
    rgb = _kitti_cut(files.where(picture), _rgb(files, picture))
    depth_m = _kitti_cut(files.where(truth[0]), _png_depth(files, truth[0], 256))
    valid = _inside(depth_m, 1e-5, 80) & _between(KITTI_SIZE, shares)
    return _sample(files, picture, rgb, depth_m, valid)


def _eth3d(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
    rgb, content = _rgb(files, picture), files.read(truth[0])
    needed = 4 * rgb.shape[0] * rgb.shape[1]
    if len(content) != needed:
        raise DataError(
            f"{files.where(truth[0])}: float32 depth of {rgb.shape[1]}x{rgb.shape[0]} needs {needed:,} bytes, it has "
            f"{len(content):,}"
        )
    depth_m = np.frombuffer(content, "<f4").reshape(rgb.shape[:2]).astype(np.float32)
    return _sample(files, picture, rgb, depth_m, _inside(depth_m, 1e-5, np.inf))


def _scannet(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
    depth_m = _png_depth(files, truth[0], 1000)
    return _sample(files, picture, _rgb(files, picture), depth_m, _inside(depth_m, 1e-3, 10))


def _diode(files: SetFiles, picture: str, truth: tuple[str, ...]) -> Sample:
    depth, mask = (_npy_map(files, name) for name in truth)
    depth_m = depth.astype(np.float32)
    if mask.shape != depth_m.shape:
        raise DataError(
            f"{files.where(truth[1])}: the mask is {mask.shape}, the depth {depth_m.shape}"
        )
    # The mask alone decides, not the range; what is not positive could not be measured.
    return _sample(
        files, picture, _rgb(files, picture), depth_m, (mask != 0) & _inside(depth_m, 0, np.inf)
    )


def _sample(
    files: SetFiles, picture: str, rgb: npt.NDArray[np.uint8], depth_m: Metres, valid: Mask
) -> Sample:
    path = files.where(picture)
    if rgb.shape[:2] != depth_m.shape:
        raise DataError(f"{path}: the picture is {rgb.shape[:2]}, its depth {depth_m.shape}")
    return Sample(
        rgb=rgb,
        depth_m=np.where(valid, depth_m, np.float32(0)),
        normals=None,
        valid=valid,
        path=str(path),
    )


def _rgb(files: SetFiles, name: str) -> npt.NDArray[np.uint8]:
    return decode_rgb(files.where(name), files.read(name))


def _png_depth(files: SetFiles, name: str, units_per_m: float) -> Metres:
    stored = decode_picture(files.where(name), files.read(name))
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise DataError(
            f"{files.where(name)}: expected a 16-bit grey PNG, got {stored.dtype} {stored.shape}"
        )
    return (stored / units_per_m).astype(np.float32)


def _npy_map(files: SetFiles, name: str) -> Array:
    stored = decode_npy(files.where(name), files.read(name), "fiub")
    if stored.ndim == 3 and stored.shape[2] == 1:
        stored = stored[..., 0]
    if stored.ndim != 2:
        raise DataError(f"{files.where(name)}: expected [H, W] or [H, W, 1], got {stored.shape}")
    return stored


def _inside(depth_m: Metres, low: float, high: float) -> Mask:
    """Where depth is strictly inside the range, compared in float32 as published."""
    valid: Mask = (depth_m > np.float32(low)) & (depth_m < np.float32(high))
    return valid


def _between(size: tuple[int, int], shares: Shares) -> Mask:
    """True between those shares of height and width, each end truncated to whole pixels."""
    mask = np.zeros(size, bool)
    rows, columns = (
        slice(int(low * side), int(high * side))
        for side, (low, high) in zip(size, shares, strict=True)
    )
    mask[rows, columns] = True
    return mask


def _kitti_cut(path: Path, picture: Array) -> Array:
    (height, width), (rows, columns) = picture.shape[:2], KITTI_SIZE
    if height < rows or width < columns:
        raise DataError(
            f"{path}: {width}x{height} is smaller than the benchmark's {columns}x{rows}"
        )
    left = (width - columns) // 2
    return picture[height - rows :, left : left + columns]
