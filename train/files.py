"""Pictures and arrays from and to disk, one place for all data sets.

Knows: PNG, JPEG, NPY and EXR; that a damaged file is a ``DataError`` naming it; that a file appears
whole or not at all. Does not know: units, ranges, folders.
"""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from e2e_deploy import files
from e2e_deploy.errors import DataError
from e2e_deploy.files import whole_file
from e2e_deploy.optional import require

Array = npt.NDArray[Any]
MAX_BYTES = 2**30  # depth of 67 Mpx in 64-bit floats is half of it


def read_bytes(path: Path) -> bytes:
    """Content of ``path``; ``DataError`` when it is missing, unreadable, not a regular file or over MAX_BYTES."""
    try:
        return files.read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_picture(path: Path) -> Array:
    """PNG or JPEG as stored: uint8 or uint16, [H, W] or RGB [H, W, 3].

    Raises:
        DataError: missing, damaged, or neither one nor three channels.
    """
    content = np.frombuffer(read_bytes(path), dtype=np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if picture is None:
        raise DataError(f"{path}: not a readable picture ({content.size} bytes, truncated?)")
    if picture.ndim == 2:
        return picture
    if picture.shape[2] != 3:
        raise DataError(f"{path}: has {picture.shape[2]} channels, expected 1 or 3")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Frame, uint8 RGB [H, W, 3].

    Raises:
        DataError: as in ``read_picture``, or not 8-bit colour.
    """
    picture = read_picture(path)
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise DataError(
            f"{path}: expected 8-bit RGB [H, W, 3], got {picture.dtype} {picture.shape}"
        )
    return picture


def read_array(path: Path) -> Array:
    """NPY or EXR, by suffix; NPY files that hold Python objects are refused.

    Raises:
        DataError: missing or damaged.
        UnavailableError: EXR without the package that reads it.
    """
    content = read_bytes(path)
    try:
        if path.suffix == ".exr":
            # OpenCV's wheels come with or without EXR; mitsuba is in the train extra anyway.
            return np.array(require("mitsuba", "train").Bitmap(str(path)), dtype=np.float32)
        array: Array = np.load(io.BytesIO(content), allow_pickle=False)
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable {path.suffix[1:]} file ({error})") from error
    return array


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; E2EDeployError when that fails."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_picture(path: Path, picture: Array) -> None:
    """Write uint8 or uint16, [H, W] or RGB [H, W, 3], atomically; the suffix chooses the format."""
    stored = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(path.suffix, stored)
    if not done:
        raise DataError(f"{path}: {picture.dtype} {picture.shape} cannot be written as a picture")
    write_bytes(path, content.tobytes())
