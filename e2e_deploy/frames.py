"""Frames and their processing size: resize matrices, padding, and the plan that joins them. NumPy only.

H, W: height and width in pixels. A frame is uint8 RGB [H, W, 3].
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError

Frame = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float32]

MIN_SIDE_PX = 16
MAX_PIXELS = 64 * 1024 * 1024


def check_frame_size(height: int, width: int) -> None:
    """Refuse sizes that no engine is built for.

    Raises:
        UsageError: a side is below 16 px, or the area is above 64 Mpx.
    """
    if min(height, width) < MIN_SIDE_PX:
        raise UsageError(
            f"the picture is {width} px wide and {height} high; both sides must be at least {MIN_SIDE_PX} px"
        )
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"the picture is {width} px wide and {height} high ({height * width / 1e6:.0f} Mpx); "
            f"the limit is {MAX_PIXELS / 1e6:.0f} Mpx: make it smaller first"
        )


def resize_matrix(n_in: int, n_out: int, *, antialias: bool = True) -> Matrix:
    """Bilinear resampling of one axis as a matrix [n_out, n_in]; rows sum to 1.

    Equals torch.nn.functional.interpolate(mode="bilinear", align_corners=False) along that axis: a triangle filter
    of half-width max(1, n_in / n_out), or of 1 without ``antialias``, around (i + 0.5) * n_in / n_out, cut at the
    border and renormalised.
    """
    scale = n_in / n_out
    support = max(1.0, scale) if antialias else 1.0
    centre = (np.arange(n_out, dtype=np.float64)[:, None] + 0.5) * scale
    position = np.arange(n_in, dtype=np.float64)[None, :] + 0.5
    weight = np.clip(1.0 - np.abs(position - centre) / support, 0.0, None)
    matrix: Matrix = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def bicubic_matrix(n_in: int, n_out: int) -> Matrix:
    """Antialiased bicubic resampling of one axis as a matrix [n_out, n_in]; rows sum to 1, and weights may be negative.

    Equals torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=True) along that axis, and
    Pillow's BICUBIC but for its rounding to bytes: Keys' cubic with a = -0.5, stretched by n_in / n_out where the axis
    shrinks, cut at the border and renormalised.
    """
    scale = n_in / n_out
    centre = (np.arange(n_out, dtype=np.float64)[:, None] + 0.5) * scale
    position = np.arange(n_in, dtype=np.float64)[None, :] + 0.5
    x = np.abs(position - centre) / max(1.0, scale)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weight = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    matrix: Matrix = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


@dataclass(frozen=True)
class Sizing:
    """How a pipeline chooses the size its network sees, and how it comes back to the frame.

    Attributes:
        pads: the bottom and right are padded by edge replication to a multiple of the VAE's stride. Otherwise the VAE
            drops what is over, and its smaller result is stretched over the frame.
        in_floats: a resized side is int(side * (resolution / longest)) in floats, which may be one pixel less than
            side * resolution // longest.
        antialias_back: the result is antialiased where it shrinks to the frame.
        bicubic: the filter of both ways is Pillow's bicubic, always antialiased, and not bilinear.
    """

    pads: bool
    in_floats: bool
    antialias_back: bool
    bicubic: bool = False


DIFFUSERS_SIZING = Sizing(pads=True, in_floats=False, antialias_back=False)
"""Of diffusers' Marigold pipelines (MarigoldImageProcessor)."""
E2E_FT_SIZING = Sizing(pads=False, in_floats=True, antialias_back=True)
"""Of E2E-FT's own repository, which took it over from Marigold's (resize_max_res, torchvision's resize)."""
PILLOW_SIZING = Sizing(pads=False, in_floats=True, antialias_back=True, bicubic=True)
"""Of GeoWizard's repository (resize_max_res with Image.resize and its default filter)."""


@dataclass(frozen=True)
class FramePlan:
    """How a frame size maps to the processing size the network sees, and its result back.

    Attributes:
        frame_hw: of the frame and of the final result.
        resized_hw: of the frame once its longest edge is the processing resolution.
        padded_hw: the processing size: what the network sees.
        result_hw: of the network's result; not ``padded_hw`` where that is no multiple of the VAE's stride, or of the
            network's for a DPT head.
        antialias_back: as in Sizing.
        bicubic: as in Sizing; what overshoots is clipped to the range of the values.
    """

    frame_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]
    result_hw: tuple[int, int]
    antialias_back: bool
    bicubic: bool = False

    @property
    def kept_hw(self) -> tuple[int, int]:
        """The part of the result, from the top left, that is the frame's."""
        if self.padded_hw == self.resized_hw:
            return self.result_hw
        return (
            min(self.resized_hw[0], self.result_hw[0]),
            min(self.resized_hw[1], self.result_hw[1]),
        )

    @property
    def resizes(self) -> bool:
        """Whether the frame changes size before it is padded."""
        return self.frame_hw != self.resized_hw

    @property
    def resizes_back(self) -> bool:
        """Whether the result changes size after it is cropped."""
        return self.frame_hw != self.kept_hw

    def to_network(self, axis: int) -> Matrix:
        """Resize-and-pad matrix [padded, frame] of an axis (0 rows, 1 columns)."""
        sides = self.frame_hw[axis], self.resized_hw[axis]
        matrix = bicubic_matrix(*sides) if self.bicubic else resize_matrix(*sides)
        extra = self.padded_hw[axis] - self.resized_hw[axis]
        return np.concatenate([matrix, np.repeat(matrix[-1:], extra, axis=0)])

    def to_frame(self, axis: int) -> Matrix:
        """Crop-and-resize-back matrix [frame, result] of an axis (0 rows, 1 columns)."""
        kept = self.kept_hw[axis]
        sides = kept, self.frame_hw[axis]
        matrix = (
            bicubic_matrix(*sides)
            if self.bicubic
            else resize_matrix(*sides, antialias=self.antialias_back)
        )
        return np.pad(matrix, ((0, 0), (0, self.result_hw[axis] - kept)))


def plan_frame(
    frame_hw: tuple[int, int],
    resolution: int,
    stride: int,
    *,
    sizing: Sizing = DIFFUSERS_SIZING,
    pad: int = 0,
) -> FramePlan:
    """Plan the way from ``frame_hw`` to the network and back.

    Args:
        frame_hw: height and width of the frame.
        resolution: length of the longest edge the network sees; 0 keeps the frame's own size.
        stride: pixels a side of one latent pixel.
        sizing: of the checkpoint's own pipeline.
        pad: pad to multiples of this instead; 0 does as ``sizing`` says.

    Raises:
        UsageError: a side is too small, the frame or what it is enlarged to too large, the aspect so extreme that an
            edge would vanish, or ``pad`` no multiple of ``stride``.
    """
    if pad < 0 or pad % stride:
        raise UsageError(
            f"sides cannot be padded to multiples of {pad}; give a multiple of {stride}"
        )
    height, width = frame_hw
    check_frame_size(height, width)
    if not 0 <= resolution <= MAX_PIXELS:
        raise UsageError(
            f"the processing resolution is {resolution}; it must be 0 (the frame's own size) or more, "
            f"and at most {MAX_PIXELS}"
        )
    if resolution == 0:
        resized = frame_hw
    else:
        longest = max(height, width)
        resized = (
            (int(height * (resolution / longest)), int(width * (resolution / longest)))
            if sizing.in_floats
            else (height * resolution // longest, width * resolution // longest)
        )
    if resized[0] * resized[1] > MAX_PIXELS:
        raise UsageError(
            f"a frame of {height}x{width} (height x width) would be enlarged to {resized[0]}x{resized[1]}; the limit "
            f"is {MAX_PIXELS / 1e6:.0f} Mpx: choose a smaller processing resolution"
        )
    multiple = pad or (stride if sizing.pads else 1)
    padded = (-(-resized[0] // multiple) * multiple, -(-resized[1] // multiple) * multiple)
    result = (padded[0] // stride * stride, padded[1] // stride * stride)
    if min(*resized, *result) == 0:
        raise UsageError(
            f"a frame of {height}x{width} (height x width) is too narrow for a processing resolution of {resolution}"
        )
    return FramePlan(frame_hw, resized, padded, result, sizing.antialias_back, sizing.bicubic)


def parse_size(text: str) -> tuple[int, int]:
    """``"480x640"`` (height x width) as (480, 640).

    Raises:
        UsageError: not two positive numbers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(re.fullmatch(r"0*[1-9][0-9]{0,5}", part) for part in parts):
        raise UsageError(f"{text!r} is not a frame size; write HEIGHTxWIDTH, for example 480x640")
    return int(parts[0]), int(parts[1])


def check_frame(frame: npt.NDArray[np.uint8]) -> Frame:
    """The frame itself, if it is uint8 RGB [H, W, 3].

    Raises:
        UsageError: another dtype or shape.
    """
    if (
        not isinstance(frame, np.ndarray)
        or frame.dtype != np.uint8
        or frame.ndim != 3
        or frame.shape[2] != 3
    ):
        given = (
            f"{frame.dtype} {list(frame.shape)}"
            if isinstance(frame, np.ndarray)
            else type(frame).__name__
        )
        raise UsageError(f"a frame is uint8 RGB [H, W, 3]; given: {given}")
    return frame
