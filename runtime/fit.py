"""Frames of any size through an engine of a fixed size: scaled to fit, padded, and the result brought back."""

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import check_frame_size
from e2e_deploy.kinds import Form
from e2e_deploy.runtime.backends.layout import Result


class Fit:
    """The way from frames of one size to the engine's frame size and back.

    The aspect is kept; what is left over is filled by repeating the edge. Frames that already have the engine's
    size pass through untouched.

    Raises:
        UsageError: the frame is too small or too large.
    """

    def __init__(self, source_hw: tuple[int, int], engine_hw: tuple[int, int]) -> None:
        check_frame_size(*source_hw)
        self.source_hw, self.engine_hw = source_hw, engine_hw
        scale = min(engine_hw[0] / source_hw[0], engine_hw[1] / source_hw[1])
        self.inner_hw = (
            min(engine_hw[0], max(1, round(source_hw[0] * scale))),
            min(engine_hw[1], max(1, round(source_hw[1] * scale))),
        )
        if min(self.inner_hw) < 8:
            raise UsageError(
                f"a frame of {source_hw[0]}x{source_hw[1]} (height x width) is too narrow for an engine of "
                f"{engine_hw[0]}x{engine_hw[1]}"
            )

    @property
    def is_identity(self) -> bool:
        """Whether frames pass through untouched."""
        return self.source_hw == self.engine_hw

    def to_engine(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 RGB [H, W, 3] of the source size, as a frame of the engine's size."""
        if self.is_identity:
            return frame
        from e2e_deploy.system.opencv import cv2  # frames of the engine's size do without

        height, width = self.inner_hw
        shrinks = height < self.source_hw[0]
        inner = cv2.resize(
            frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        bottom, right = self.engine_hw[0] - height, self.engine_hw[1] - width
        return np.asarray(
            cv2.copyMakeBorder(inner, 0, bottom, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8
        )

    def to_source(self, result: Result, form: Form) -> Result:
        """The engine's result at the source size; vectors are made unit length again."""
        if self.is_identity:
            return result
        from e2e_deploy.system.opencv import cv2, without_ipp

        height, width = self.inner_hw
        size = (self.source_hw[1], self.source_hw[0])
        with without_ipp():
            back = np.asarray(
                cv2.resize(result[:height, :width], size, interpolation=cv2.INTER_LINEAR),
                dtype=np.float32,
            )
        if form == "vectors":
            back /= np.maximum(np.linalg.norm(back, axis=2, keepdims=True), 1e-6)
        return back


def best_size(source_hw: tuple[int, int], engine_sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The engine size for frames of ``source_hw``: the same, else the closest aspect, else the larger."""

    def covered(engine_hw: tuple[int, int]) -> tuple[bool, float, int]:
        scale = min(engine_hw[0] / source_hw[0], engine_hw[1] / source_hw[1])
        share = scale * scale * source_hw[0] * source_hw[1] / (engine_hw[0] * engine_hw[1])
        return engine_hw == source_hw, round(share, 2), engine_hw[0] * engine_hw[1]

    return max(engine_sizes, key=covered)
