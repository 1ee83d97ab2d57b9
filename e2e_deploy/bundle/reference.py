"""The reference stored in a bundle: frames and the fp32 results for them, in one .npz; its headers are read first.

``frames``, and an array for each output by its name.
"""

import io
import math
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import BundleError
from e2e_deploy.system.files import read_npy_header
from e2e_deploy.system.text import clean

MAX_BYTES = 2**30
"""Of the frames when unpacked, and of all results; two frames of 2160x3840 and their normals take 250 MB."""

Shape = tuple[int, ...]


def _array(
    archive: ZipFile, name: str, dtype: type, each: Shape, max_bytes: int
) -> npt.NDArray[Any]:
    """The array ``name`` of ``dtype`` [N, *each]; ValueError where it is another, before its data are unpacked."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f"{name} is packed or encrypted in a way that np.savez does not write")
    with archive.open(info) as stream:
        # ZipExtFile is a binary stream in all but typeshed's eyes.
        shape, is_fortran, found = read_npy_header(cast(BinaryIO, stream))
        if found != dtype or is_fortran or shape[1:] != each or not shape[0]:
            raise ValueError(
                f"{name} are {found} {shape}; expected {np.dtype(dtype)} {['N', *each]}"
            )
        num_bytes = math.prod(shape) * found.itemsize
        if num_bytes > max_bytes:
            raise ValueError(f"{name} would be {num_bytes} bytes, and at most {max_bytes} are read")
        data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError(f"{name} end after {len(data)} of {num_bytes} bytes")
    return np.frombuffer(data, found).reshape(shape).copy()  # one that may be written to


def read_reference(
    name: str, data: bytes, frame_dtype: type, takes: Shape, gives: Mapping[str, Shape]
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[np.float32]]]:
    """Frames of ``frame_dtype`` [N, *takes] in the .npz ``data``, and of each output results float32 [N, *its shape].

    Raises:
        BundleError: ``name`` does not hold these arrays, or results that are NaN or infinite.
    """
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            frames = _array(archive, "frames", frame_dtype, takes, MAX_BYTES)
            results, left = {}, MAX_BYTES
            for output, shape in gives.items():
                each = results[output] = _array(archive, output, np.float32, shape, left)
                left -= each.nbytes
                if len(frames) != len(each):
                    raise ValueError(f"{len(frames)} frames have {len(each)} results of {output}")
    except (
        *(OSError, ValueError, KeyError, EOFError, IndexError, BadZipFile),
        *(zlib.error, NotImplementedError, RuntimeError, MemoryError),
    ) as error:
        raise BundleError(
            f"{name} holds no reference frames and results: {clean(str(error))}"
        ) from None
    if not all(np.isfinite(each).all() for each in results.values()):
        raise BundleError(f"{name} holds reference results that are NaN or infinite")
    return frames, results


def in_batches(count: int, batch: int) -> list[list[int]]:
    """Which of ``count`` pictures make each batch: every one in turn, the last batch filled up from the first ones."""
    return [[(first + i) % count for i in range(batch)] for first in range(0, count, batch)]
