"""OpenCV, or one sentence on how to get it to load. Everything that needs cv2 takes it from here."""

import os

from e2e_deploy.errors import UnavailableError

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read when cv2 is imported
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

try:
    import cv2
except ImportError as error:
    raise UnavailableError(
        f"opencv-python does not load ({error}); on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0"
    ) from error

__all__ = ["cv2"]
