"""OpenCV, or one sentence on how to get it to load. Everything that needs cv2 takes it from here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from e2e_deploy.errors import UnavailableError

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read when cv2 is imported
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

try:
    import cv2
except ImportError as error:
    raise UnavailableError(
        f"opencv-python does not load ({error}); on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0"
    ) from error

__all__ = ["cv2", "without_ipp"]


@contextmanager
def without_ipp() -> Iterator[None]:
    """A block in which this thread's OpenCV computes by itself, where it would hand over to Intel's IPP.

    Some builds for x86 have that library and others have not, and it rounds otherwise: so results are the same on
    every machine, and in the C library, which has OpenCV's arithmetic (native/src/steps/resize.cpp).
    """
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(before)
