"""Pictures of what a model does beside what it should do, for people.

Knows: one row an image, one caption a row. Does not know: where pictures go.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.colormap import colour_depth, colour_normals
from e2e_deploy.kinds import KINDS
from e2e_deploy.metrics import align_scale_shift
from e2e_deploy.names import Colormap, ResultKind
from e2e_deploy.system.opencv import cv2

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]

COLOURS: Colormap = "spectral"
ROW_WIDTH = 960
CAPTION_HEIGHT = 18


def comparison_row(
    rgb: Picture, target: Array, prediction: Array, valid: Array, kind: ResultKind
) -> Picture:
    """A row of rgb | target | prediction, side by side, uint8 [H, 3 W, 3]; targets are black where invalid.

    Args:
        rgb: uint8 [H, W, 3].
        target: depth in metres [H, W], unit normals [H, W, 3], or values in [0, 1].
        prediction: same shape; depth and disparity are aligned to the target by scale and shift and share its
            colours, vectors are made unit length.
        valid: bool [H, W].
        kind: of the prediction; disparity has depth as its target.
    """
    prediction, target = np.nan_to_num(prediction), np.nan_to_num(target)
    form = KINDS[kind].form
    if form == "vectors":
        length = np.linalg.norm(prediction, axis=-1, keepdims=True)
        coloured = colour_normals(target), colour_normals(prediction / np.maximum(length, 1e-6))
    elif form == "picture":
        coloured = picture_of(target), picture_of(prediction)
    else:
        if kind != "depth":
            # As disparity, and turned round, so that near has the colour of near.
            target = (-1.0 / np.where(valid, np.maximum(target, 1e-6), 1.0)).astype(np.float32)
        near, far, scale, shift = 0.0, 1.0, 1.0, 0.0
        if valid.any():
            near, far = np.quantile(target[valid], [0.02, 0.98]).tolist()
            scale, shift = align_scale_shift(prediction, target, valid)
        aligned = (scale * prediction + shift).astype(np.float32)
        coloured = (
            colour_depth(target, COLOURS, near, far),
            colour_depth(aligned, COLOURS, near, far),
        )
    columns = [rgb, coloured[0] * valid[..., None], coloured[1]]
    return np.concatenate(columns, axis=1).astype(np.uint8)


def picture_of(values: Array) -> Picture:
    """Values [H, W] or [H, W, 3] in [0, 1], black where they are NaN, as a picture."""
    stored = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    return stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=-1)


def captioned_rows(rows: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Rows of one width under each other, each below its caption, uint8 RGB."""
    parts = []
    for row, caption in zip(rows, captions, strict=True):
        height = max(1, round(row.shape[0] * ROW_WIDTH / row.shape[1]))
        bar = np.zeros((CAPTION_HEIGHT, ROW_WIDTH, 3), np.uint8)
        cv2.putText(bar, caption, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
        parts += [bar, cv2.resize(row, (ROW_WIDTH, height), interpolation=cv2.INTER_AREA)]
    return np.concatenate(parts).astype(np.uint8)
