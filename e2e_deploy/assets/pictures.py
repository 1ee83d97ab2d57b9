"""The packaged real pictures, as frames of any size."""

from importlib.resources import files

import numpy as np
import numpy.typing as npt

from e2e_deploy.system.opencv import cv2

NAMES = ("astronaut.jpg", "coffee.jpg")


def reference_frames(frame_hw: tuple[int, int], count: int = len(NAMES)) -> npt.NDArray[np.uint8]:
    """The first ``count`` packaged pictures as uint8 RGB [count, H, W, 3], cut to the aspect and scaled."""
    height, width = frame_hw
    frames = []
    for name in NAMES[:count]:
        data = np.frombuffer((files("e2e_deploy.assets") / name).read_bytes(), dtype=np.uint8)
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
        h, w = picture.shape[:2]
        scale = max(height / h, width / w)
        cut_h, cut_w = min(h, round(height / scale)), min(w, round(width / scale))
        top, left = (h - cut_h) // 2, (w - cut_w) // 2
        cut = picture[top : top + cut_h, left : left + cut_w]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        frames.append(cv2.resize(cut, (width, height), interpolation=how))
    return np.stack(frames).astype(np.uint8)
