"""Every encoding against a picture that is known, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.ros.images import ENCODINGS, picture_of
from e2e_deploy.runtime.ros.messages import CompressedImage, Header, Image

HEIGHT, WIDTH = 32, 48


def smooth():
    """A picture whose colours change slowly, so that halved chroma and mosaics keep it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    rgb = [60 + 3 * x, 200 - 4 * y, 90 + x + 2 * y]
    return np.rint(np.stack(rgb, axis=-1)).astype(np.uint8)


RGB = smooth()


def message(pixels, encoding, *, step=0, is_bigendian=0, height=HEIGHT, width=WIDTH):
    """A picture of rows [rows, bytes], with ``step`` bytes a row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    step = step or rows.shape[1]
    padded = np.full((len(rows), step), 0xA5, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return Image(Header(), height, width, encoding, is_bigendian, step, padded.reshape(-1))


def yuv():
    """Y, U, V of RGB in floats: BT.601, limited range, by its definition."""
    r, g, b = np.moveaxis(RGB.astype(np.float64) / 255, 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - y) / 1.772, (r - y) / 1.402
    return 16 + 219 * y, 128 + 224 * u, 128 + 224 * v


def in_memory(encoding):
    """RGB as rows of an encoding, and by how much it may come back wrong."""
    sixteen = RGB.astype(np.uint16) * 257
    samples = sixteen if encoding.endswith("16") else RGB
    opaque = np.full((HEIGHT, WIDTH, 1), 7, samples.dtype)
    y, u, v = (np.rint(plane).astype(np.uint8) for plane in yuv())
    halves = [np.stack([u[:, ::2], v[:, ::2]], axis=-1).reshape(HEIGHT, WIDTH)]
    quarter = np.stack([u[::2, ::2], v[::2, ::2]], axis=-1).reshape(HEIGHT // 2, WIDTH)
    whole = np.stack([u, v], axis=-1).reshape(HEIGHT * 2, WIDTH)
    name = encoding.rstrip("0123456789")
    if name.startswith("bayer"):
        mosaic = np.empty((HEIGHT, WIDTH), samples.dtype)
        for place, colour in enumerate(name.removeprefix("bayer_")):
            row, column = divmod(place, 2)
            channel = "rgb".index(colour)
            mosaic[row::2, column::2] = samples[row::2, column::2, channel]
        return mosaic, 4
    swapped = quarter.reshape(-1, 2)[:, ::-1].reshape(quarter.shape)
    return {
        "rgb": lambda: (samples, 0),
        "bgr": lambda: (samples[..., ::-1], 0),
        "rgba": lambda: (np.concatenate([samples, opaque], axis=2), 0),
        "bgra": lambda: (np.concatenate([samples[..., ::-1], opaque], axis=2), 0),
        "uyvy": lambda: (np.stack([halves[0], y], axis=-1), 4),
        "yuyv": lambda: (np.stack([y, halves[0]], axis=-1), 4),
        "nv": lambda: {
            "nv12": (np.concatenate([y, quarter]), 6),
            "nv21": (np.concatenate([y, swapped]), 6),
            "nv24": (np.concatenate([y, whole]), 2),
        }[encoding],
    }[{"yuv422": "uyvy", "yuv": "uyvy", "yuv422_yuy": "yuyv"}.get(name, name)]()


COLOURS = [name for name in ENCODINGS if "mono" not in name and name != "8UC1"]


@pytest.mark.parametrize("encoding", COLOURS)
@pytest.mark.parametrize("padding", [0, 6])
def test_a_colour_picture_comes_back(encoding, padding):
    rows, error = in_memory(encoding)
    step = rows.nbytes // len(rows) + padding
    found = picture_of(message(rows, encoding, step=step))
    assert found.dtype == np.uint8
    assert found.shape == RGB.shape
    assert found.flags.c_contiguous
    inner = np.s_[2:-2, 2:-2]  # a mosaic and chroma have less to go by at the edge
    worst = np.abs(found[inner].astype(int) - RGB[inner]).max()
    assert worst <= error, f"{encoding} is off by {worst}"


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_repeated(encoding):
    found = picture_of(message(RGB[..., 0], encoding))
    assert np.array_equal(found, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_sixteen_bits_are_scaled_as_cv_bridge_does(is_bigendian):
    """By 255 / 65535, rounded, in either byte order."""
    values = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16)
    stored = values.astype(">u2" if is_bigendian else "<u2").reshape(HEIGHT, WIDTH)
    found = picture_of(message(stored, "mono16", is_bigendian=is_bigendian))
    exact = np.rint(values.astype(np.float64) * 255 / 65535).reshape(HEIGHT, WIDTH)
    assert np.array_equal(found[..., 0], exact)
    assert found[0, 0, 0] == 0
    assert found[-1, -1, 0] == 255


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "jpeg-xl"}, "encoding 'jpeg-xl' cannot be read; those that can are rgb8"),
        ({"encoding": "32FC1"}, "'32FC1' cannot be read"),
        ({"step": 3 * WIDTH - 1}, f"rows of {3 * WIDTH} bytes, and its step is {3 * WIDTH - 1}"),
        ({"height": HEIGHT + 1}, "holds 4,752 bytes, and the message has 4,608"),
        ({"height": HEIGHT - 1}, "holds 4,464 bytes, and the message has 4,608"),
        ({"height": 8}, "at least 16 px"),
        ({"height": 100_000, "width": 100_000}, "the limit is"),
        ({"width": 2**32 - 1, "step": 2**32 - 1}, "the limit is"),
        ({"encoding": "nv12", "width": 47}, "both sides must be even"),
        ({"encoding": "yuyv", "width": 47}, "the width must be even"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes, says):
    given = Image(Header(), HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, RGB.reshape(-1))
    with pytest.raises(SourceError, match=says):
        picture_of(Image(**(vars(given) | changes)))


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(0, 300),
    st.integers(0, 1),
    st.integers(0, 6000),
)
def test_any_picture_is_read_or_a_sentence(encoding, height, width, step, is_bigendian, size):
    data = np.zeros(size, np.uint8)
    try:
        found = picture_of(Image(Header(), height, width, encoding, is_bigendian, step, data))
    except SourceError:
        return
    assert found.shape == (height, width, 3)


def packed(kind, picture=RGB, **options):
    file = io.BytesIO()
    Pillow.fromarray(picture).save(file, kind, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


JPEG, PNG = packed("JPEG", quality=97, subsampling=0), packed("PNG")


@pytest.mark.parametrize(
    ("format", "data", "error"),
    [
        ("jpeg", JPEG, 6),
        ("jpg", JPEG, 6),
        ("png", PNG, 0),
        ("rgb8; jpeg compressed bgr8", JPEG, 6),
        ("bgr8; png compressed bgr8", PNG, 0),
        ("bgr8; jpeg", PNG, 0),  # the bytes say what they are
        ("", PNG, 0),
    ],
)
def test_a_compressed_picture_comes_back(format, data, error):
    found = picture_of(CompressedImage(Header(), format, data))
    assert np.abs(found.astype(int) - RGB).max() <= error
    assert found.flags.c_contiguous


def test_an_encoder_that_was_given_rgb_for_bgr_is_undone():
    """compressed_image_transport takes the channels so where the format says it."""
    found = picture_of(CompressedImage(Header(), "rgb8; png compressed rgb8", PNG))
    assert np.array_equal(found, RGB[..., ::-1])


def test_compressed_grey():
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 42
    found = picture_of(CompressedImage(Header(), "mono16; png compressed ", packed("PNG", deep)))
    assert np.array_equal(found[..., 1], np.rint(deep * (255 / 65535)))
    flat = packed("JPEG", RGB[..., 0], quality=97)
    found = picture_of(CompressedImage(Header(), "mono8; jpeg compressed mono8", flat))
    assert np.abs(found[..., 2].astype(int) - RGB[..., 0]).max() <= 6


def test_a_camera_picture_is_not_turned():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = packed("JPEG", quality=97, subsampling=0, exif=exif.tobytes())
    assert picture_of(CompressedImage(Header(), "jpeg", data)).shape == RGB.shape


def large(side):
    """A PNG whose header says it is so large, and which is small."""
    file = io.BytesIO()
    Pillow.new("1", (side, side)).save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("format", "data", "says"),
    [
        ("16UC1; compressedDepth png", PNG, "is a depth map, not what a camera sees"),
        ("jpeg", JPEG[: len(JPEG) // 2], "cannot be decoded"),
        ("png", PNG[: len(PNG) // 2], "cannot be decoded"),
        ("jpeg", JPEG[:3], "cannot be decoded"),
        ("webp", packed("WEBP"), "neither JPEG nor PNG"),
        ("jpeg", JPEG[:0], "neither JPEG nor PNG"),
        ("jpeg", packed("JPEG", RGB[:8]), "at least 16 px"),
        ("png", large(9000), "the limit is"),
        ("png", large(20_000), "cannot be decoded|the limit is"),
    ],
)
def test_a_compressed_picture_that_cannot_be_read_is_a_sentence(format, data, says):
    with pytest.raises(SourceError, match=says):
        picture_of(CompressedImage(Header(), format, data))
