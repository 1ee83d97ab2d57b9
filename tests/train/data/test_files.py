import os
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.train.data.files import (
    read_array,
    read_picture,
    read_rgb,
    write_bytes,
    write_picture,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_pictures_survive(tmp_path, dtype, shape):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / "made" / "p.png"
    write_picture(path, picture)
    got = read_picture(path)
    assert got.dtype == dtype
    assert np.array_equal(got, picture)


def test_pictures_are_rgb(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert read_rgb(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_what_is_no_frame_is_named(tmp_path):
    write_picture(tmp_path / "gray.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"gray\.png: expected 8-bit RGB .* got uint8 \(4, 4\)"):
        read_rgb(tmp_path / "gray.png")
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"alpha\.png: has 4 channels"):
        read_rgb(tmp_path / "alpha.png")
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file"):
        read_rgb(tmp_path / "none.png")


def png_of(height, width):
    """A PNG that declares this size and holds next to nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 10_000), (1, 2**31 - 1)])
def test_a_picture_that_is_larger_than_it_looks_is_not_decoded(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    with pytest.raises(DataError, match=r"bomb\.png: .*pixels"):
        read_picture(tmp_path / "bomb.png")


def npy(header, data=b"", version=b"\x01\x00"):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def told(shape, dtype="'<f4'", fortran=False):
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(told("(524288, 1048576)")), "524288 x 1048576 pixels"),
        (npy(told("(1000, 1000)"), bytes(4)), "need 4000000 bytes, it has 4"),
        (npy(told("(2, 2)"), bytes(999)), "need 16 bytes, it has 999"),
        (npy(told("(2, -2)"), bytes(16)), r"its shape is \[2, -2\]"),
        (npy(told("(4,)"), bytes(16)), r"expected \[H, W\]"),
        (npy(told("(2, 2)", "'|O'"), bytes(32)), "Python objects are never loaded"),
        (npy(told("(2, 2)", "'<c8'"), bytes(32)), "expected real numbers"),
        (npy(told("(2, 2)", "[('a', '<f4')]"), bytes(16)), "expected real numbers"),
        (npy(told("(2, 2)"), bytes(16), version=b"\x09\x00"), "version 9.0"),
        (npy("__import__('os')"), "not a readable npy"),
        (npy("(" * 3000), "not a readable npy"),
        (b"PK\x03\x04 an npz", "not a readable npy"),
        (b"\x80\x04\x95 a pickle", "not a readable npy"),
        (b"", "not a readable npy"),
    ],
)
def test_arrays_are_what_their_header_says(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy: ") as caught:
        read_array(tmp_path / "a.npy")
    assert re.search(reason, str(caught.value))


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<u2", "|i1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_real_type_are_read(tmp_path, dtype, order):
    array = np.asarray(np.arange(30).reshape(5, 6), dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    got = read_array(tmp_path / "a.npy")
    assert np.array_equal(got, array)
    assert got.dtype.isnative


def test_an_exr_that_is_larger_than_it_looks_is_not_decoded(tmp_path):
    window = b"dataWindow\0box2i\0" + struct.pack("<I4i", 16, 0, 0, 99_999, 99_999)
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01" + struct.pack("<I", 2) + window + b"\0")
    with pytest.raises(DataError, match="100000 x 100000 pixels"):
        read_array(tmp_path / "a.exr")
    for content in (b"", b"\x76\x2f\x31\x01" + bytes(9), b"\x76\x2f\x31\x01\2\0\0\0abc"):
        (tmp_path / "b.exr").write_bytes(content)
        with pytest.raises(DataError, match="not a readable exr"):
            read_array(tmp_path / "b.exr")


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_only_regular_files_are_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = read_picture if name == "a.png" else read_array
    with pytest.raises(DataError, match="named pipe"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(DataError, match="a device"):
        read(tmp_path / name)


def test_writing_replaces_whole_files(tmp_path):
    write_bytes(tmp_path / "f", b"old and long")
    write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.timeout(10)
def test_only_regular_files_are_read_and_links_are_not_written_through(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path, said in ((tmp_path / "a.png", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(DataError, match=f"it is {said}, not a regular file"):
            read_picture(path)
    (tmp_path / "victim").write_text("precious")
    for name in ("a.csv", f".b.csv.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to("victim")
    for name in ("a.csv", "b.csv"):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "victim").read_text() == "precious"
    with pytest.raises(E2EDeployError, match="it is a device, not a file"):
        write_bytes(Path("/dev/null"), b"new")
