"""A camera for other programs, where v4l2loopback made a device for one: raw frames through Linux's V4L2."""

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.sinks.sink import Canvas, Painter, Rgb
from e2e_deploy.runtime.sinks.streams.pace import Pace
from e2e_deploy.runtime.sinks.video_file import PICTURES_FPS
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.text import clean

# Of linux/videodev2.h; tests compare them with the header.
OUTPUT, NO_FIELDS = 2, 1
CAN_OUTPUT, HAS_DEVICE_CAPS = 0x2, 0x80000000
YUYV = int.from_bytes(b"YUYV", "little")
# What programs take untagged YUYV of a camera for: sRGB, coded as BT.601 in limited range.
SRGB, BT601, LIMITED = 8, 1, 2
PRIV_MAGIC = 0xFEEDCAFE  # says that the fields after priv mean something


class Capability(ctypes.Structure):
    """struct v4l2_capability."""

    _fields_ = (
        ("driver", ctypes.c_char * 16),
        ("card", ctypes.c_char * 32),
        ("bus_info", ctypes.c_char * 32),
        ("version", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("device_caps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    )


class PixFormat(ctypes.Structure):
    """struct v4l2_pix_format."""

    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in (
            *("width", "height", "pixelformat", "field", "bytesperline", "sizeimage"),
            *("colorspace", "priv", "flags", "ycbcr_enc", "quantization", "xfer_func"),
        )
    )


class _Formats(ctypes.Union):
    # Other members hold pointers, by which the whole is aligned.
    _fields_ = (("pix", PixFormat), ("raw", ctypes.c_uint8 * 200), ("pointer", ctypes.c_void_p))


class Format(ctypes.Structure):
    """struct v4l2_format."""

    _fields_ = (("type", ctypes.c_uint32), ("fmt", _Formats))


class StreamParm(ctypes.Structure):
    """struct v4l2_streamparm, of an output."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("capability", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("numerator", ctypes.c_uint32),
        ("denominator", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 184),
    )


def _request(direction: int, number: int, of: type[ctypes.Structure]) -> int:
    """Linux's number of an ioctl (asm-generic/ioctl.h); 2 reads, 3 reads and writes."""
    return direction << 30 | ctypes.sizeof(of) << 16 | ord("V") << 8 | number


QUERYCAP = _request(2, 0, Capability)
S_FMT = _request(3, 5, Format)
S_PARM = _request(3, 22, StreamParm)


class VirtualCameraSink:
    """Coloured results, alone or beside the frames, as frames of a v4l2loopback device.

    Args:
        path: of the device.
        painter: colours the results.
        fps: average rate of the source; None takes PICTURES_FPS.
        live: whether the source is; frames of a file come at its own times.
        side_by_side: the frame on the left.

    Attributes:
        dropped: frames that the device did not take in time.

    Raises:
        UnavailableError: there is no such device, or this is not Linux.
        UsageError: it is a camera, which gives pictures and takes none.
        E2EDeployError: it cannot be opened.
    """

    on_main_thread = False

    def __init__(
        self, path: str, painter: Painter, *, fps: float | None, live: bool, side_by_side: bool
    ) -> None:
        if sys.platform != "linux":
            raise UnavailableError(f"{path}: only Linux has such devices")
        self.name = path
        self.dropped = 0
        self._fps = fps or PICTURES_FPS
        self._canvas = Canvas(painter, path, side_by_side=side_by_side)
        self._pace = Pace(live=live, fps=self._fps)
        self._fit: Fit | None = None
        self._line_bytes = 0
        try:
            self._device = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except FileNotFoundError:
            raise UnavailableError(
                f"there is no {path}; v4l2loopback makes such devices: sudo modprobe v4l2loopback video_nr="
                + path.removeprefix("/dev/video")
            ) from None
        except OSError as error:
            raise E2EDeployError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            self._check()
        except BaseException:
            os.close(self._device)
            raise

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Show one frame.

        Raises:
            UsageError: a picture of another size than the first.
            E2EDeployError: the device does not take it.
        """
        self._pace(frame)
        picture = self._canvas(frame, result, facts)
        if self._fit is None:
            self._fit = self._begin(picture.shape[0], picture.shape[1])
        data = _yuyv(self._fit.to_engine(picture), self._line_bytes)
        try:
            with self._told("takes no frame"):
                os.write(self._device, data)
        except BlockingIOError:
            self.dropped += 1

    def close(self) -> list[Path]:
        """Leave the device; no file was written."""
        os.close(self._device)
        return []

    def _check(self) -> None:
        known = Capability()
        with self._told("is no video device"):
            _ioctl(self._device, QUERYCAP, known)
        can = known.device_caps if known.capabilities & HAS_DEVICE_CAPS else known.capabilities
        if not can & CAN_OUTPUT:
            card = clean(known.card.decode(errors="replace"))
            raise UsageError(
                f"`out` {self.name} ({card}) gives pictures and takes none; v4l2loopback makes devices that take them"
            )

    def _begin(self, height: int, width: int) -> Fit:
        """Agree on a format with the device."""
        wanted = Format(type=OUTPUT)
        pix = wanted.fmt.pix
        pix.width, pix.height, pix.pixelformat, pix.field = width, height, YUYV, NO_FIELDS
        pix.bytesperline, pix.sizeimage = 2 * width, 2 * width * height
        pix.colorspace, pix.priv = SRGB, PRIV_MAGIC
        pix.ycbcr_enc, pix.quantization = BT601, LIMITED
        with self._told("takes no YUYV"):
            _ioctl(self._device, S_FMT, wanted)
        if pix.pixelformat != YUYV or pix.width % 2:
            letters = pix.pixelformat.to_bytes(4, "little").decode("ascii", "replace")
            raise E2EDeployError(
                f"{self.name} takes no YUYV but {clean(letters)} of {pix.width}x{pix.height}; end what uses it"
            )
        self._line_bytes = max(pix.bytesperline, 2 * pix.width)
        rate = StreamParm(type=OUTPUT, numerator=1000, denominator=round(1000 * self._fps))
        with suppress(OSError):  # it is only told to those who ask
            _ioctl(self._device, S_PARM, rate)
        return Fit((height, width), (pix.height, pix.width))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            why = "another program writes to it" if error.errno == errno.EBUSY else error.strerror
            raise E2EDeployError(f"{self.name} {what}: {why}") from None


def _ioctl(device: int, request: int, argument: ctypes.Structure) -> None:
    import fcntl  # which Windows does not have

    fcntl.ioctl(device, request, argument)


def _yuyv(picture: Rgb, line_bytes: int) -> npt.NDArray[np.uint8]:
    """uint8 RGB [H, W, 3] as YUYV 4:2:2 [H, line_bytes]."""
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    (plane,) = image.reformat(
        format="yuyv422", dst_colorspace="ITU601", dst_color_range="MPEG"
    ).planes
    lines = np.frombuffer(plane, dtype=np.uint8).reshape(image.height, plane.line_size)
    packed = np.zeros((image.height, line_bytes), dtype=np.uint8)
    packed[:, : 2 * image.width] = lines[:, : 2 * image.width]
    return packed
