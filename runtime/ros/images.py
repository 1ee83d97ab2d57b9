"""Picture messages as frames: uint8 RGB [H, W, 3]. The meaning of an encoding is cv_bridge's.

YUV is BT.601 of limited range, as OpenCV converts it and so everything built on cv_bridge. 16 bits become 8 by
255 / 65535. Bayer is interpolated bilinearly.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.frames import check_frame_size
from e2e_deploy.runtime.ros.messages import CompressedImage, Image
from e2e_deploy.system.opencv import cv2
from e2e_deploy.system.text import clean

Rgb = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]
COMPRESSED = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_BT601 = np.array(
    [
        [1.164, 0.0, 1.596, -222.912],
        [1.164, -0.391, -0.813, 135.488],
        [1.164, 2.018, 0.0, -276.928],
    ]
)  # R, G, B of (Y, U, V, 1), which are (Y - 16, U - 128, V - 128)


@dataclass(frozen=True)
class Encoding:
    """How a raw picture lies in memory.

    Attributes:
        channels: samples of a pixel in a row; of pictures in planes those of the first.
        bits: of a sample.
        to_rgb: from [rows, width] or [rows, width, channels] to RGB of the same bits.
        rows: of the data for two rows of the picture; more than two with further planes.
        even: which sides must be even: "", "w" or "hw".
    """

    channels: int
    bits: int
    to_rgb: Callable[[Samples], Samples]
    rows: int = 2
    even: str = ""


def _by(code: str) -> Callable[[Samples], Samples]:
    number = getattr(cv2, f"COLOR_{code}")
    return lambda samples: np.asarray(cv2.cvtColor(samples, number))


_grey = _by("GRAY2RGB")


def _nv24(samples: Samples) -> Samples:
    """Y, then U and V of every pixel in turn, which OpenCV does not know."""
    height, width = samples.shape[0] // 3, samples.shape[1]
    uv = samples[height:].reshape(height, width, 2)
    return np.asarray(cv2.transform(cv2.merge([samples[:height], uv]), _BT601))


def _encodings() -> dict[str, Encoding]:
    table: dict[str, Encoding] = {}
    for bits in (8, 16):
        table |= {
            f"rgb{bits}": Encoding(3, bits, lambda samples: samples),
            f"bgr{bits}": Encoding(3, bits, _by("BGR2RGB")),
            f"rgba{bits}": Encoding(4, bits, _by("RGBA2RGB")),
            f"bgra{bits}": Encoding(4, bits, _by("BGRA2RGB")),
            f"mono{bits}": Encoding(1, bits, _grey),
        }
        # OpenCV calls a pattern by the second and third pixel of its second row, ROS by the first two of the first two.
        for ros, opencv in (("rggb", "BG"), ("bggr", "RG"), ("gbrg", "GR"), ("grbg", "GB")):
            table[f"bayer_{ros}{bits}"] = Encoding(1, bits, _by(f"Bayer{opencv}2RGB"), even="hw")
    uyvy = Encoding(2, 8, _by("YUV2RGB_UYVY"), even="w")
    yuyv = Encoding(2, 8, _by("YUV2RGB_YUY2"), even="w")
    return table | {
        "8UC1": table["mono8"],
        "yuv422": uyvy,
        "uyvy": uyvy,
        "yuv422_yuy2": yuyv,
        "yuyv": yuyv,
        "nv12": Encoding(1, 8, _by("YUV2RGB_NV12"), rows=3, even="hw"),
        "nv21": Encoding(1, 8, _by("YUV2RGB_NV21"), rows=3, even="hw"),
        "nv24": Encoding(1, 8, _nv24, rows=6),
    }


ENCODINGS = _encodings()
"""Raw pictures that are read, by sensor_msgs' name."""


def picture_of(message: Image | CompressedImage) -> Rgb:
    """The picture of a message as uint8 RGB [H, W, 3], contiguous; it may be a view of a raw message's data.

    Grey is repeated, alpha is dropped. Nothing is turned: what EXIF says of a camera's picture is not asked.

    Raises:
        SourceError: an encoding that is not read, data that do not fit it, a damaged picture, or a size that cannot be
            processed.
    """
    if isinstance(message, Image):
        return _raw(message)
    return _compressed(message)


def _check_size(height: int, width: int) -> None:
    try:
        check_frame_size(height, width)
    except UsageError as error:
        raise SourceError(str(error)) from None


def _raw(message: Image) -> Rgb:
    kind = ENCODINGS.get(message.encoding)
    if kind is None:
        known = ", ".join(ENCODINGS)
        raise SourceError(
            f"a picture of encoding {clean(message.encoding, 40)!r} cannot be read; those that can are {known}"
        )
    height, width, step = int(message.height), int(message.width), int(message.step)
    _check_size(height, width)
    what = f"a picture of {width}x{height} in {message.encoding}"
    if ("w" in kind.even and width % 2) or ("h" in kind.even and height % 2):
        sides = "both sides" if "h" in kind.even else "the width"
        raise SourceError(f"{what} cannot be: {sides} must be even")
    size = kind.bits // 8
    row = width * kind.channels * size
    rows = height * kind.rows // 2
    data = np.frombuffer(message.data, dtype=np.uint8)
    if step < row:
        raise SourceError(f"{what} has rows of {row} bytes, and its step is {step}")
    if len(data) != rows * step:
        raise SourceError(
            f"{what} with a step of {step} holds {rows * step:,} bytes, and the message has {len(data):,}"
        )
    samples = data.reshape(rows, step)[:, :row]
    if size == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        samples = np.ascontiguousarray(samples).view(order).astype(np.uint16, copy=False)
    if kind.channels > 1:
        samples = samples.reshape(rows, width, kind.channels)
    rgb = kind.to_rgb(np.ascontiguousarray(samples))
    return np.ascontiguousarray(_eight_bits(rgb))


def _eight_bits(samples: Samples) -> Rgb:
    """16 bits as 8, rounded; 8 as they are."""
    if samples.dtype == np.uint8:
        return samples
    return np.asarray(cv2.convertScaleAbs(samples, alpha=255 / 65535), dtype=np.uint8)


def _compressed(message: CompressedImage) -> Rgb:
    said = clean(message.format, 60)
    if "compressedDepth" in message.format:
        raise SourceError(
            f"a compressed picture of format {said!r} is a depth map, not what a camera sees"
        )
    data = np.frombuffer(message.data, dtype=np.uint8).tobytes()
    found = next((name for head, name in COMPRESSED.items() if data.startswith(head)), None)
    if found is None:
        raise SourceError(f"a compressed picture of format {said!r} is neither JPEG nor PNG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of the picture, the errors here say
            rgb = _decoded(data, found)
    except SourceError:
        raise
    except Exception as error:  # damaged bytes lead readers to raise almost anything
        why = clean(str(error), 120) or type(error).__name__
        raise SourceError(
            f"a compressed picture of format {said!r} cannot be decoded: {why}"
        ) from None
    # Publishers that hand RGB to an encoder that expects BGR say so in this place (compressed_image_transport).
    swapped = "compressed rgb" in message.format.partition(";")[2]
    return np.ascontiguousarray(rgb[..., ::-1]) if swapped else rgb


def _decoded(data: bytes, kind: str) -> Rgb:
    """A JPEG or PNG, of whose header the size is checked before anything is decoded."""
    with Pillow.open(io.BytesIO(data), formats=(kind,)) as picture:
        _check_size(picture.height, picture.width)
        picture.load()
        if picture.mode.startswith("I"):  # grey of 16 bits
            return _grey(_eight_bits(np.asarray(picture).astype(np.uint16)))
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)
