"""A camera with a lens that bends: where its pixels look, pixel by pixel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import InputError
from e2e_deploy.runtime.camera.intrinsics import Float64, Intrinsics


@dataclass(frozen=True, eq=False)
class Lens:
    """What every pixel of pictures of one size sees.

    Attributes:
        seen: x and y at z = 1 in optical axes, float32 [2, H, W]; NaN where the lens' formula cannot be undone.
    """

    seen: npt.NDArray[np.float32]

    def rays(self, u: npt.NDArray[Any], v: npt.NDArray[Any]) -> Float64:
        """What the pixels see at z = 1: float64 [..., 3] for whole columns ``u`` and rows ``v`` of one shape.

        Raises:
            InputError: pixels that it has not, because the picture is larger.
        """
        height, width = self.seen.shape[1:]
        if u.size and (u.max() >= width or v.max() >= height):
            raise InputError(
                f"the camera is known for pictures of {width}x{height}, not larger ones"
            )
        x, y = self.seen[:, v, u].astype(np.float64)
        return np.stack([x, y, np.ones_like(x)], axis=-1)


Camera = Intrinsics | Lens
"""What says where pixels look."""
