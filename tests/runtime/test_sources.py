import struct
import zlib

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources import BaseSource, read_picture
from e2e_deploy.runtime.uris import open_source


def refused(spec, match):
    with pytest.raises(SourceError, match=match) as caught:
        list(open_source(str(spec)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, picture):
    assert cv2.imwrite(str(path), picture)
    return path


def blank_png(path, width, height):
    """A white 1-bit PNG of any size in a few kilobytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\x00" + b"\xff" * (-(-width // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(row * height)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_source_says_a_thing_once_and_no_more_than_a_hundred(tmp_path):
    source = BaseSource("a")
    for count in range(300):
        source.note(f"frame {count // 2}\x1b[2J is odd")
    assert source.notes == [f"frame {count}\ufffd[2J is odd" for count in range(100)]


def test_a_picture_is_rgb(tmp_path, rgb):
    path = write(tmp_path / "a.png", rgb[..., ::-1])
    (frame,) = open_source(str(path))
    np.testing.assert_array_equal(frame.rgb, rgb)
    assert (frame.index, frame.pts_s, frame.name) == (0, None, "a")


def test_grey_is_repeated(tmp_path, rgb):
    got = read_picture(write(tmp_path / "grey.png", rgb[..., 0]))
    np.testing.assert_array_equal(got, np.repeat(rgb[..., :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path, rgb):
    bgra = np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(read_picture(write(tmp_path / "rgba.png", bgra)), rgb)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(tmp_path, rng, channels):
    deep = rng.integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    got = read_picture(write(tmp_path / "deep.png", deep)).astype(int)
    expected = np.broadcast_to(deep, (20, 30, 3)) if channels == 1 else deep[..., 2::-1]
    assert np.abs(got - expected // 256).max() <= 1


def test_exif_turns_a_picture(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = (0, 0, 255)  # BGR: the left half is red
    data = bytearray(cv2.imencode(".jpg", picture)[1].tobytes())
    tag = struct.pack("<HHHI", 1, 0x0112, 3, 1) + struct.pack("<HH", 6, 0)  # turned clockwise
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + tag + bytes(4)
    data[2:2] = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "phone.jpg").write_bytes(data)
    got = read_picture(tmp_path / "phone.jpg")
    assert got.shape == (64, 32, 3)
    assert got[10, 16, 0] > 200
    assert got[54, 16, 0] < 50


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\xff\xd8\xff\xe0 half a jpeg"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
def test_text_named_as_a_picture(tmp_path, content, suffix, capfd):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path, "is not a picture that can be decoded")
    assert capfd.readouterr().err == ""


def test_a_picture_of_one_pixel(tmp_path):
    path = write(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    refused(path, r"dot.png is 1x1; both sides must be at least 16 px")


def test_a_picture_of_108_megapixels(tmp_path):
    path = blank_png(tmp_path / "huge.png", 12000, 9000)
    assert path.stat().st_size < 100_000
    refused(path, r"12000x9000 \(108 Mpx\); the limit is 67 Mpx: make it smaller first")


def test_a_picture_beyond_opencvs_own_limit(tmp_path):
    refused(blank_png(tmp_path / "bomb.png", 40000, 40000), "bomb.png is")


def test_a_folder_in_the_order_of_its_names(tmp_path, rgb):
    for name, size in (("b.png", 40), ("a.JPG", 20), ("c.bmp", 33)):
        write(tmp_path / name, np.zeros((size, 50, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(str(tmp_path))
    assert (source.total, source.is_video) == (3, False)
    frames = list(source)
    assert [f.name for f in frames] == ["a", "b", "c"]
    assert [f.rgb.shape for f in frames] == [(20, 50, 3), (40, 50, 3), (33, 50, 3)]


def test_pictures_that_differ_by_suffix_alone_keep_names_apart(tmp_path, rgb):
    for name in ("a.png", "a.jpg", "b.png"):
        write(tmp_path / name, rgb)
    assert [f.name for f in open_source(str(tmp_path))] == ["a.jpg", "a.png", "b"]


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"holds no pictures \(.png, .jpg")
    refused(tmp_path / "missing.jpg", "does not exist; a source is a picture, a folder")
    refused("²", "does not exist")
    refused("-1", "does not exist")


def test_a_camera_that_does_not_exist(capfd):
    refused("77", "there is no camera 77 here, or another program holds it")
    assert capfd.readouterr().err == ""
