"""The header of a .npy file from somewhere. NumPy's own reader lets through more errors than it documents."""

from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape without negative sides, whether it is in Fortran's order, and type; the array's bytes follow.

    Raises:
        ValueError: whatever is wrong with the header.
    """
    version = npy_format.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"it has version {version[0]}.{version[1]}; expected 1.0 or 2.0")
    try:
        shape, is_fortran, dtype = _READERS[version](stream)
    except (OSError, ValueError):
        raise
    # A header is Python's text: it is parsed by Python, whose parsers fail in many ways.
    except Exception:
        raise ValueError("its header is no description of an array") from None
    if any(side < 0 for side in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return shape, is_fortran, dtype
