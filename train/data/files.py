"""Pictures and arrays from and to disk, one place for all data sets.

Knows: PNG, JPEG, NPY and EXR; that a damaged file is a ``DataError`` naming it, and one that is larger than it
looks too, before it is decoded; that a file appears whole or not at all. Does not know: units, ranges, folders.
"""

import io
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from e2e_deploy.errors import DataError
from e2e_deploy.frames import MAX_PIXELS
from e2e_deploy.packages import require
from e2e_deploy.system import files

Array = npt.NDArray[Any]

_DAMAGED = (RuntimeError, ValueError, EOFError, OSError, struct.error)  # RuntimeError is mitsuba's

MAX_BYTES = 2**30
"""Of one file: depth of 67 Mpx in 64-bit floats is half of it."""


def read_bytes(path: Path) -> bytes:
    """Content of the regular file ``path``; ``DataError`` when it is missing, unreadable or above MAX_BYTES."""
    try:
        return files.read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_picture(path: Path, *, drop_alpha: bool = False) -> Array:
    """PNG or JPEG as stored: uint8 or uint16, [H, W] or RGB [H, W, 3].

    Raises:
        DataError: missing, damaged, or neither one nor three channels, beside alpha if ``drop_alpha`` says so.
    """
    return decode_picture(path, read_bytes(path), drop_alpha=drop_alpha)


def decode_picture(path: Path, content: bytes, *, drop_alpha: bool = False) -> Array:
    """As ``read_picture``, of the ``content`` that messages call ``path``."""
    picture = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is another
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as header:
                _check_size(path, header.height, header.width)
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, ValueError, SyntaxError, cv2.error):
        pass  # each of them says less than the sentence below
    if picture is None:
        raise DataError(f"{path}: not a readable picture ({len(content)} bytes, truncated?)")
    if picture.ndim == 2:
        return picture
    if drop_alpha and picture.shape[2] == 4:
        picture = picture[..., :3]
    if picture.shape[2] != 3:
        raise DataError(f"{path}: has {picture.shape[2]} channels, expected 1 or 3")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Frame, uint8 RGB [H, W, 3].

    Raises:
        DataError: as in ``read_picture``, or not 8-bit colour.
    """
    return decode_rgb(path, read_bytes(path))


def decode_rgb(path: Path, content: bytes) -> npt.NDArray[np.uint8]:
    """As ``read_rgb``, of the ``content`` that messages call ``path``."""
    picture = decode_picture(path, content)
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise DataError(
            f"{path}: expected 8-bit RGB [H, W, 3], got {picture.dtype} {picture.shape}"
        )
    return picture


def read_array(path: Path) -> Array:
    """NPY or EXR, by suffix: [H, W] or [H, W, C] of real numbers; NPY files that hold Python objects are refused.

    Raises:
        DataError: missing, damaged, or no such array.
        UnavailableError: EXR without the package that reads it.
    """
    content = read_bytes(path)
    try:
        if path.suffix == ".exr":
            _check_size(path, *_exr_size(content))
            # OpenCV's wheels come with or without EXR; mitsuba is in the train extra anyway.
            return np.array(require("mitsuba", "train").Bitmap(str(path)), dtype=np.float32)
    except _DAMAGED as error:
        raise DataError(f"{path}: not a readable exr file ({error})") from error
    return decode_npy(path, content)


def decode_npy(path: Path, content: bytes, kinds: str = "fiu") -> Array:
    """The array of an NPY file's ``content``, which messages call ``path``; bounds as of ``read_array``.

    ``kinds`` are NumPy's letters of the types it may have.

    Raises:
        DataError: damaged, or no such array.
    """
    try:
        return _read_npy(path, content, kinds)
    except _DAMAGED as error:
        raise DataError(f"{path}: not a readable npy file ({error})") from error


def _read_npy(path: Path, content: bytes, kinds: str) -> Array:
    stream = io.BytesIO(content)
    shape, is_fortran, dtype = files.read_npy_header(stream)
    if dtype.kind not in kinds:
        raise ValueError(
            f"it holds {dtype}, expected real numbers; Python objects are never loaded"
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"its shape is {shape}, expected [H, W] or [H, W, C]")
    _check_size(path, shape[0], shape[1])
    needed, there = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if needed != there:
        raise ValueError(f"{shape} of {dtype} need {needed} bytes, it has {there}")
    flat: Array = np.frombuffer(content, dtype, offset=stream.tell())
    array: Array = flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _exr_size(content: bytes) -> tuple[int, int]:
    """Height and width that an OpenEXR header declares (attribute ``dataWindow``, OpenEXR file layout)."""
    if content[:4] != b"\x76\x2f\x31\x01":
        raise ValueError("no OpenEXR header")
    at = 8
    while content[at : at + 1] not in (b"", b"\0"):
        name, kind, _ = content[at : at + 512].split(b"\0", 2)
        at += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<I", content, at)
        if name == b"dataWindow":
            left, top, right, bottom = struct.unpack_from("<4i", content, at + 4)
            return bottom - top + 1, right - left + 1
        at += 4 + size
    raise ValueError("the OpenEXR header has no dataWindow")


def _check_size(path: Path, height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(f"{path}: {height} x {width} pixels, expected 1 to {MAX_PIXELS:,}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` whole or not at all; E2EDeployError as of ``files.whole_file``."""
    with files.whole_file(path) as partial:
        partial.write_bytes(content)


def write_picture(path: Path, picture: Array) -> None:
    """Write uint8 or uint16, [H, W] or RGB [H, W, 3], whole or not at all; the suffix chooses the format."""
    stored = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(path.suffix, stored)
    if not done:
        raise DataError(f"{path}: {picture.dtype} {picture.shape} cannot be written as a picture")
    write_bytes(path, content.tobytes())
