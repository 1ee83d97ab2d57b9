"""A picture file as a frame: upright 8-bit RGB, refused by its header before anything large is decoded.

Pillow reads almost everything. OpenCV decodes 16-bit and floating-point colour, which Pillow cannot hold, and HEIC
needs the extra ``heif``.
"""

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.frames import MAX_PIXELS
from e2e_deploy.packages import require
from e2e_deploy.runtime.sources.source import check_size
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.opencv import cv2
from e2e_deploy.system.text import clean

# Of Pillow's many readers the ones that people's pictures need; among the others is PostScript, which runs programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".jp2", ".ppm", ".pgm", ".pnm", ".avif", ".heic", ".heif"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (
    *_TIFF,
    *(_PNG, b"\xff\xd8\xff", b"GIF8", b"BM", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"Pf\n"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
MAX_FILE_BYTES = 16 * MAX_PIXELS  # four channels of 32 bits: no picture within the limit needs more
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point"}  # TIFF 6.0, SampleFormat

Note = Callable[[str], None]


def is_picture(path: Path) -> bool:
    """Whether a regular file begins as a picture of a known kind does, whatever its name.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        head = stream.read(32)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    still = head[4:8] == b"ftyp" and head[8:12] in (*_HEIF_BRANDS, b"avif", b"avis")
    return head.startswith(_SIGNATURES) or webp or still


def read_picture(path: str | Path, *, note: Note = lambda text: None) -> npt.NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3], turned as the file says; grey is repeated, an alpha channel is dropped.

    16 bits are scaled to 8, 10 to 14 bits by the file's own word; floats must lie in [0, 1].

    Args:
        path: of a regular file, of one of FORMATS or HEIC, whatever its suffix.
        note: is told what has to be known of the result, in a sentence.

    Raises:
        SourceError: missing, not a regular file, not a picture, damaged, or of a size that cannot be processed.
        UnavailableError: HEIC without the package that reads it.
    """
    try:
        with open_regular(Path(path)) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > MAX_FILE_BYTES:
                raise SourceError(
                    f"{path} holds {size:,} bytes; a picture may have {MAX_FILE_BYTES:,}"
                )
            return _decode(str(path), stream, note)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None


def decode_picture(
    data: bytes, name: str, *, note: Note = lambda text: None
) -> npt.NDArray[np.uint8]:
    """The picture whose file's content is ``data``, as ``read_picture`` reads it; errors and notes call it ``name``.

    Raises:
        SourceError: as ``read_picture``.
        UnavailableError: as ``read_picture``.
    """
    return _decode(name, io.BytesIO(data), note)


def _decode(name: str, stream: BinaryIO, note: Note) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say of the file, the errors here say
        return _decoded(name, stream, note)


def _decoded(name: str, stream: BinaryIO, note: Note) -> npt.NDArray[np.uint8]:
    head = stream.read(64)
    stream.seek(0)
    try:
        if head.startswith(_TIFF):
            return _tiff(name, stream, note)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head:
            return _heif(name, stream)
        deep_png = head.startswith(_PNG) and head[24:25] == b"\x10"
        return _pillow(name, stream, note, deep_png=deep_png)
    except (SourceError, UnavailableError):
        raise
    except UnidentifiedImageError:
        raise SourceError(
            f"{name} is not a picture that can be decoded ({', '.join(FORMATS)})"
        ) from None
    except Image.DecompressionBombError:  # Pillow's own limit is twice as far
        raise SourceError(
            f"{name} is larger than {MAX_PIXELS / 1e6:.0f} Mpx, the limit: make it smaller first"
        ) from None
    except Exception as error:  # damaged bytes lead readers to raise almost anything
        why = clean(str(error), 120) or type(error).__name__
        raise SourceError(f"{name} is not a picture that can be decoded: {why}") from None


def _pillow(
    name: str, stream: BinaryIO, note: Note, *, deep_png: bool = False
) -> npt.NDArray[np.uint8]:
    with Image.open(stream, formats=FORMATS) as picture:
        check_size(name, picture.height, picture.width)
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            note(f"{name} holds several pictures; the first is read")
        if deep_png:
            orientation = _orientation(picture)
            stream.seek(0)
            data = stream.read()
            chunks = dict(_chunks(data))
            found = upright(_opencv(data), orientation)
            return _eight_bits(name, found, note, _significant(chunks.get(b"sBIT"), found))
        picture.load()
        orientation = _orientation(picture)  # after loading: Pillow turns TIFF by itself
        if picture.mode.startswith("I") or picture.mode == "F":
            numbers = np.asarray(picture)
            if picture.format == "PPM" and numbers.dtype == np.int32:
                numbers = numbers.astype(np.uint16)  # Pillow has scaled its largest value to 65535
            return _eight_bits(name, upright(numbers, orientation), note)
        return upright(np.asarray(picture.convert("RGB"), dtype=np.uint8), orientation)


def _tiff(name: str, stream: BinaryIO, note: Note) -> npt.NDArray[np.uint8]:
    """TIFF: OpenCV (which turns by itself) for more than 8 bits, Pillow for the others."""
    header = stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(
        header + (stream.read(8) if 43 in header[2:4] else b"")
    )
    stream.seek(tags.next)
    tags.load(stream)
    if not {TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.IMAGEWIDTH} <= set(tags):
        raise ValueError("its header does not tell its size")
    check_size(name, int(tags[TiffImagePlugin.IMAGELENGTH]), int(tags[TiffImagePlugin.IMAGEWIDTH]))
    bits = int(np.max(tags.get(TiffImagePlugin.BITSPERSAMPLE, 1)))
    kind = _SAMPLES.get(int(np.max(tags.get(TiffImagePlugin.SAMPLEFORMAT, 1))), "undefined")
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2  # both mix them up
    stream.seek(0)
    if kind == "unsigned" and bits <= 8:
        return _pillow(name, stream, note)
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    readable = bits >= 32 if kind == "floating-point" else kind == "unsigned" and bits <= 16
    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if not readable or planes or photometric not in (1, 2) or channels not in (1, 3, 4):
        raise SourceError(
            f"{name} is a TIFF of {bits}-bit {kind} samples (photometric interpretation {photometric}, {channels} "
            f"{'separate' if planes else 'interleaved'} channels), which cannot be read: convert it to 8-bit RGB"
        )
    if tags.next:
        note(f"{name} holds several pictures; the first is read")
    top = tags.get(281)  # MaxSampleValue
    return _eight_bits(
        name, _opencv(stream.read()), note, None if top is None else int(np.max(top))
    )


def _heif(name: str, stream: BinaryIO) -> npt.NDArray[np.uint8]:
    """HEIC: libheif assembles tiles and turns the picture, so its EXIF is not asked."""
    try:
        heif = require("pillow_heif", "heif")
    except UnavailableError as error:
        raise UnavailableError(f"{name} is HEIC: {error}, or convert it to JPEG") from None
    opened = heif.open_heif(stream, convert_hdr_to_8bit=True)
    check_size(name, opened.size[1], opened.size[0])
    return np.asarray(opened.to_pillow().convert("RGB"), dtype=np.uint8)


def _opencv(data: bytes) -> npt.NDArray[Any]:
    """Grey [H, W] or RGB [H, W, 3] with the bits of the file."""
    found = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError("its pixels are damaged")
    return found if found.ndim == 2 else np.asarray(found[..., 2::-1])


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or EXIF is damaged, which is no reason to lose the picture."""
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # as for pictures
        return 1


def upright(picture: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A stored picture [H, W, ...] as it should be seen, by EXIF's orientation (TIFF 6.0, tag 274)."""
    if 5 <= orientation <= 8:  # rows are columns
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of each chunk of a PNG; one longer than the file would have OpenCV allocate gigabytes."""
    at, kind = len(_PNG), b""
    while at < len(data) and kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise ValueError("one of its chunks ends beyond the file")
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _significant(bits: bytes | None, picture: npt.NDArray[Any]) -> int | None:
    """The largest value of a 16-bit PNG whose samples were stored as they are, against the specification.

    Its sBIT chunk says how many bits they had. Samples scaled to 16 bits, as it asks for, are zero in the lower ones
    while they are dark, and larger than that many bits hold when they are not.
    """
    most = max((bits or b"")[:3], default=16)
    step = 1 << max(0, 16 - most)
    unscaled = most < 16 and picture.max() < 1 << most and bool((picture % step).any())
    return (1 << most) - 1 if unscaled else None


def _eight_bits(
    name: str, picture: npt.NDArray[Any], note: Note, top: int | None = None
) -> npt.NDArray[np.uint8]:
    """Samples of more bits as frame [H, W, 3]; ``top`` is what the file says its largest value means."""
    peak, lowest = picture.max(), picture.min()
    white = 65535
    if picture.dtype == np.uint16:
        if top is not None and 255 <= top < white and peak <= top:
            white = top
            note(f"{name} holds values up to {top} in 16 bits by its own word; they are scaled")
        elif 0 < peak < 4096:
            bits = 10 if peak < 1024 else 12
            note(
                f"{name} is nearly black: no value of its 16 bits is above {peak}, as if {bits}-bit samples had been "
                f"stored unscaled; if so, multiply them by {1 << (16 - bits)} first"
            )
    elif np.issubdtype(picture.dtype, np.floating):
        if not (math.isfinite(peak) and lowest >= 0 and peak <= 1):
            raise SourceError(
                f"{name} holds floats from {lowest:.4g} to {peak:.4g}; a picture's must lie in [0, 1], where 0 is "
                "black and 1 white: scale them, or save 8 or 16 bits"
            )
        note(f"{name} holds floats, read as they are with 0 as black and 1 as white")
    else:
        raise SourceError(
            f"{name} holds {picture.dtype.name} samples; a picture has 8 or 16 bits or floats in [0, 1]"
        )
    if picture.dtype == np.uint16:
        levels = np.rint(np.arange(65536) * (255 / white)).clip(0, 255).astype(np.uint8)
        small = levels[picture]
    else:
        small = np.rint(picture * np.float32(255)).astype(np.uint8)
    return small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
