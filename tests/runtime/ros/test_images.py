"""Every encoding against a picture that is known, and what is refused."""

import numpy as np
import pytest

from e2e_deploy.runtime.ros.images import ENCODINGS, picture_of
from e2e_deploy.runtime.ros.messages import Header, Image

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
