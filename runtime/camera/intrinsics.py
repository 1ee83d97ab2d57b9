"""A pinhole camera: where pixels look. Lens distortion is not known here; pictures are taken as rectified."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError

MAX_PX = 1e6
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point in pixels of the source frame as it is seen; pixel centres are whole numbers.

    A video's frame is upright and has square pixels before anything is measured in it.

    Axes are optical: x right, y down, z forward.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def parse(cls, text: str) -> "Intrinsics":
        """From ``fx,fy,cx,cy``.

        Raises:
            UsageError: not four numbers up to MAX_PX, or a focal length below a pixel.
        """
        try:
            fx, fy, cx, cy = (float(word) for word in text.split(","))
        except ValueError:
            fx = fy = cx = cy = float("nan")
        if not (np.abs([fx, fy, cx, cy]).max() <= MAX_PX and min(fx, fy) >= 1):
            raise UsageError(
                f"intrinsics are fx,fy,cx,cy in pixels, up to {MAX_PX:g} and focal lengths from 1, not {text!r}; "
                "for example 600,600,320,240"
            )
        return cls(fx, fy, cx, cy)

    def rays(self, u: npt.NDArray[Any], v: npt.NDArray[Any]) -> Float64:
        """What the pixels see at z = 1: float64 [..., 3] for columns ``u`` and rows ``v`` of one shape."""
        x = (np.asarray(u, dtype=np.float64) - self.cx) / self.fx
        y = (np.asarray(v, dtype=np.float64) - self.cy) / self.fy
        return np.stack([x, y, np.ones_like(x)], axis=-1)
