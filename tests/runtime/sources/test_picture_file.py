import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from e2e_deploy.assets.pictures import NAMES
from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.sources.picture_file import is_picture, read_picture
from tests.picture_files import blank_png, deep_png, grey_tiff

DATA = Path(__file__).parents[3] / "tests" / "data"
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220)


def write(path, picture):
    assert cv2.imwrite(str(path), picture)
    return path


def refused(path, match):
    with pytest.raises(SourceError, match=match) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def read(path):
    """(picture, notes)."""
    notes = []
    return read_picture(path, note=notes.append), notes


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_jpeg_is_the_same_as_with_opencv(name):
    path = Path(__file__).parents[3] / "e2e_deploy" / "assets" / name
    for given in (path, str(path)):
        np.testing.assert_array_equal(read_picture(given), cv2.imread(str(path))[..., ::-1])


def test_grey_is_repeated(tmp_path, rgb):
    got = read_picture(write(tmp_path / "grey.png", rgb[..., 0]))
    np.testing.assert_array_equal(got, np.repeat(rgb[..., :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path, rgb):
    bgra = np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(read_picture(write(tmp_path / "rgba.png", bgra)), rgb)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(tmp_path, rng, channels, suffix):
    deep = rng.integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    got, notes = read(write(tmp_path / f"deep{suffix}", deep))
    expected = np.broadcast_to(deep, (20, 30, 3)) if channels == 1 else deep[..., 2::-1]
    np.testing.assert_array_equal(got, np.rint(expected / 257))
    assert notes == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_every_kind(tmp_path, suffix, orientation):
    """The stored picture is red, green over blue, white; Pillow's own rule says how it should be seen."""
    stored = np.repeat(np.repeat([[RED, GREEN], [BLUE, WHITE]], 24, axis=0), 32, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"phone{suffix}"
    Image.fromarray(stored.astype(np.uint8)).save(path, exif=exif, quality=95)
    got = read_picture(path)
    with Image.open(path) as picture:
        seen = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(got, seen)
    first = {1: RED, 2: GREEN, 3: WHITE, 4: BLUE, 5: RED, 6: BLUE, 7: WHITE, 8: GREEN}[orientation]
    assert got.shape == ((64, 48, 3) if orientation > 4 else (48, 64, 3))
    np.testing.assert_allclose(got[8, 8], first, atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_sixteen_bits(tmp_path, rgb, orientation):
    """Two ways through OpenCV, which turns TIFF but not PNG."""
    eight, deep = rgb[..., 0], rgb[..., 0].astype(np.uint16) * 257
    plain, sixteen = tmp_path / "8.tif", tmp_path / "16.tif"
    grey_tiff(plain, eight, 8, t274=orientation)
    grey_tiff(sixteen, deep, 16, t274=orientation)
    np.testing.assert_array_equal(read_picture(sixteen), read_picture(plain))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(deep).save(tmp_path / "16.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "16.png"), read_picture(plain))
    late = deep_png(tmp_path / "late.png", deep, orientation=orientation)
    np.testing.assert_array_equal(read_picture(late), read_picture(plain))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_of_a_tiff_are_scaled(tmp_path, bits):
    values = np.linspace(0, (1 << bits) - 1, 600).astype(np.uint16).reshape(20, 30)
    got, notes = read(grey_tiff(tmp_path / "a.tif", values, bits))
    np.testing.assert_allclose(got[..., 0], values / ((1 << bits) - 1) * 255, atol=1)
    assert notes == []


def test_a_file_that_says_what_its_largest_value_means_is_scaled(tmp_path):
    values = np.linspace(0, 4000, 600).astype(np.uint16).reshape(20, 30)
    for path in (
        grey_tiff(tmp_path / "a.tif", values, 16, t281=4095),
        deep_png(tmp_path / "a.png", values, significant_bits=12),
    ):
        got, notes = read(path)
        np.testing.assert_allclose(got[..., 0], values / 4095 * 255, atol=0.51)
        assert notes == [
            f"{path} holds values up to 4095 in 16 bits by its own word; they are scaled"
        ]


def test_a_dark_picture_that_was_scaled_as_the_standard_says_stays_dark(tmp_path):
    values = (np.arange(600).reshape(20, 30) % 200 * 16).astype(np.uint16)
    got, notes = read(deep_png(tmp_path / "a.png", values, significant_bits=12))
    np.testing.assert_allclose(got[..., 0], values / 257, atol=0.51)
    assert "nearly black" in notes[0]


@pytest.mark.parametrize("largest", [100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pnm_says_what_its_largest_value_means(tmp_path, rng, channels, largest):
    values = rng.integers(0, largest + 1, (20, 30, channels))
    header = f"P{5 if channels == 1 else 6}\n30 20\n{largest}\n".encode()
    samples = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    (tmp_path / "a.pnm").write_bytes(header + samples)
    got, notes = read(tmp_path / "a.pnm")
    np.testing.assert_allclose(got, np.broadcast_to(values / largest * 255, got.shape), atol=1)
    assert notes == []


@pytest.mark.parametrize(("peak", "said"), [(1023, "10-bit"), (4095, "12-bit"), (4096, "")])
def test_twelve_bits_in_sixteen_are_said(tmp_path, rng, peak, said):
    values = rng.integers(0, peak + 1, (20, 30, 3), dtype=np.uint16)
    values[3, 4, 1] = peak
    path = write(tmp_path / "a.png", values)
    notes = read(path)[1]
    assert notes if said else not notes
    if said:
        assert f"no value of its 16 bits is above {peak}, as if {said} samples" in notes[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_from_0_to_1(tmp_path, rng, channels):
    values = rng.random((20, 30, channels), dtype=np.float32)
    path = write(tmp_path / "a.tif", values)
    got, notes = read(path)
    expected = np.broadcast_to(values[..., ::-1], (20, 30, 3)) * 255
    np.testing.assert_allclose(got, expected, atol=0.501)
    assert notes == [f"{path} holds floats, read as they are with 0 as black and 1 as white"]


@pytest.mark.parametrize("worst", [1.5, -0.1, np.nan, np.inf])
def test_floats_beyond_are_refused_with_the_reason(tmp_path, worst):
    values = np.full((20, 30, 3), 0.5, np.float32)
    values[2, 3, 1] = worst
    refused(write(tmp_path / "a.tif", values), r"a.tif holds floats .*must lie in \[0, 1\]")


def test_tiffs_that_nothing_here_reads(tmp_path):
    values = np.zeros((20, 30), np.uint16)
    refused(grey_tiff(tmp_path / "a.tif", values, 16, t339=3), "TIFF of 16-bit floating-point")
    refused(grey_tiff(tmp_path / "b.tif", values, 16, t284=2), "separate channels")
    refused(grey_tiff(tmp_path / "c.tif", values, 16, t262=0), "photometric interpretation 0")
    refused(grey_tiff(tmp_path / "e.tif", values, 16, t277=2), "2 interleaved channels")
    write(tmp_path / "d.tif", values.astype(np.int32))
    refused(tmp_path / "d.tif", "32-bit signed")


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\xff\xd8\xff\xe0 half a jpeg"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
def test_text_named_as_a_picture(tmp_path, content, suffix, capfd):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path, "is not a picture that can be decoded")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".avif", ".jp2", ".ppm"]
)
@pytest.mark.filterwarnings("error")
def test_half_a_picture_is_none(tmp_path, rgb, suffix):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(rgb).save(path)
    np.testing.assert_allclose(read_picture(path).shape, rgb.shape)
    whole = path.read_bytes()
    for size in range(1, len(whole) // 2, max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        refused(path, "is not a picture that can be decoded|must be at least")


def test_sizes_are_judged_by_the_header_alone(tmp_path, monkeypatch):
    refused(write(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8)), "1x1; both sides must be")
    huge = blank_png(tmp_path / "huge.png", 12000, 9000)
    bomb = blank_png(tmp_path / "bomb.png", 30000, 30000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    refused(huge, r"12000x9000 \(108 Mpx\); the limit is 67 Mpx: make it smaller first")
    refused(bomb, "bomb.png is larger than 67 Mpx, the limit")
    for bits in (8, 16):
        large = grey_tiff(tmp_path / "a.tif", np.zeros((20, 30)), bits, t256=60000, t257=60000)
        refused(large, r"60000x60000 \(3600 Mpx\)")


def test_a_chunk_longer_than_its_file_reaches_no_decoder(tmp_path, monkeypatch):
    """OpenCV allocates what a chunk says it holds."""
    path = deep_png(tmp_path / "a.png", np.zeros((20, 30)))
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = (0xF000_0000).to_bytes(4, "big")
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    refused(path, "one of its chunks ends beyond the file")


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path):
    path = tmp_path / "a.tif"
    grey_tiff(path, np.zeros((20, 30)), 8)
    os.truncate(path, 1 << 40)
    refused(path, "a.tif holds 1,099,511,627,776 bytes; a picture may have")


@pytest.mark.timeout(5)
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path / "a.png", "cannot be read: it is a named pipe")
    refused(Path("/dev/zero"), "it is a device")
    refused(tmp_path, "it is a folder")
    refused(tmp_path / "missing.png", "No such file")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_a_moving_picture_the_first_is_read_and_that_is_said(tmp_path, suffix):
    frames = [Image.new("RGB", (40, 30), colour) for colour in (RED, BLUE, GREEN)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    got, notes = read(path)
    np.testing.assert_allclose(got[0, 0], RED, atol=6)
    assert notes == [f"{path} holds several pictures; the first is read"]


def test_damaged_exif_loses_no_picture(tmp_path, rgb):
    Image.fromarray(rgb).save(
        tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x01" * 40
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), rgb)


def test_heic_is_upright_and_its_tiles_are_one_picture():
    pytest.importorskip("pillow_heif", reason="the package pillow-heif is not installed")
    got = read_picture(DATA / "grid.heic")
    assert got.shape == (128, 128, 3)
    corners = got[[8, 8, -8, -8], [8, -8, 8, -8]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=4)
    turned = read_picture(DATA / "turned.heic")
    assert turned.shape == (64, 48, 3)
    np.testing.assert_allclose(turned[[8, -8], 24], [RED, BLUE], atol=4)


def test_heic_without_its_package_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UnavailableError, match=r"grid.heic is HEIC: .*\[heif\]', or convert it"):
        read_picture(DATA / "grid.heic")


def test_content_decides_what_a_picture_is(tmp_path, rgb):
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"):
        path = tmp_path / "a.unknown"
        Image.fromarray(rgb).save(path, kind)
        assert is_picture(path), kind
        assert read_picture(path).shape == rgb.shape
    assert is_picture(DATA / "grid.heic")
    (tmp_path / "notes.txt").write_text("no picture at all, but text of some length")
    assert not is_picture(tmp_path / "notes.txt")
