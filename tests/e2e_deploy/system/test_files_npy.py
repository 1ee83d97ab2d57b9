import io
import struct

import numpy as np
import pytest

from e2e_deploy.system.files import read_npy_header


def _file(header: str, version: int = 1) -> io.BytesIO:
    content = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(content))
    return io.BytesIO(b"\x93NUMPY" + bytes([version, 0]) + length + content)


@pytest.mark.parametrize(
    "array", [np.ones((2, 3), np.float16), np.asfortranarray(np.ones((2, 3))), np.array(4)]
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_what_numpy_writes(array, version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    stream.seek(0)
    shape, is_fortran, dtype = read_npy_header(stream)
    assert (shape, dtype) == (array.shape, array.dtype)
    assert is_fortran == (array.ndim == 2 and array.flags.f_contiguous)
    assert len(stream.read()) == array.nbytes


@pytest.mark.parametrize(
    "header",
    [
        "((((",  # NumPy: tokenize.TokenError
        "'''",
        "{1: 2, 'descr': '<f4', 'shape': ()}",  # TypeError
        "{[]: 1}",
        "{'descr': ('<f4',), 'fortran_order': False, 'shape': (1,)}",  # IndexError
        "if 1:\n  y\n z",  # IndentationError
        "-" * 9000 + "1",  # MemoryError or RecursionError
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': 'heat', 'fortran_order': False, 'shape': (3,)}",
        "",
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_hostile_header_is_a_value_error(header, version):
    with pytest.raises(ValueError, match="."):
        read_npy_header(_file(header, version))


def test_another_version_is_named():
    with pytest.raises(ValueError, match=r"version 3\.0; expected 1\.0 or 2\.0"):
        read_npy_header(io.BytesIO(b"\x93NUMPY\x03\x00"))
