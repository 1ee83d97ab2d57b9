"""How depth and normals become stored numbers and back.

Knows: units, saturation, the ranges of 8- and 16-bit PNG, axes. Does not know: files.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Axes = Literal["right-up-back", "right-down-front"]

UINT16_MAX = 65535
"""Stored depth at this value was saturated: at least this far, so unknown."""


def encode_depth(depth_m: Float32, unit_m: float) -> npt.NDArray[np.uint16]:
    """Metres to uint16 units; saturates instead of wrapping, and stores invalid depth as 0."""
    units = np.nan_to_num(depth_m.astype(np.float64) / unit_m, nan=0.0, posinf=UINT16_MAX)
    return np.clip(np.rint(units), 0, UINT16_MAX).astype(np.uint16)


def decode_depth(stored: Array, unit_m: float) -> Float32:
    """Stored numbers to metres, float32; NaN, infinite, negative and saturated values become 0."""
    known = np.isfinite(stored) & (stored > 0)
    if stored.dtype == np.uint16:
        known &= stored < UINT16_MAX
    return np.where(known, np.where(known, stored, 0) * unit_m, 0).astype(np.float32)


def encode_normals(normals: Float32) -> npt.NDArray[np.uint8]:
    """Unit normals [H, W, 3] to uint8 ``(n + 1) / 2``; the zero vector is stored as zeros.

    Eight bits cost about 0.2 degrees.
    """
    stored = np.rint((normals + 1) * 127.5).astype(np.uint8)
    return np.where(np.abs(normals).sum(axis=-1, keepdims=True) > 0, stored, 0).astype(np.uint8)


def decode_normals(stored: Array, axes: Axes = "right-up-back") -> Float32:
    """Stored [H, W, 3] to unit normals, x right, y up, z toward the viewer; zero where unknown.

    Vectors of any length are normalised. Unknown are the zero vector, also as an integer picture rounds it
    (mid grey), an all-zero pixel of one, and what is not finite.
    """
    if stored.dtype in (np.uint8, np.uint16):
        # Twice the vector in steps of the picture: whole numbers, and 1 or -1 where zero was rounded.
        vectors = 2.0 * stored - float(np.iinfo(stored.dtype).max)
        known = stored.any(axis=-1, keepdims=True)
        known &= (np.abs(vectors) > 1).any(axis=-1, keepdims=True)
    else:
        vectors = stored.astype(np.float64)
        known = np.isfinite(vectors).all(axis=-1, keepdims=True)
    if axes == "right-down-front":
        vectors = vectors * (1, -1, -1)
    return unit_or_zero(np.where(known, vectors, 0.0))


def decode_values(stored: Array) -> Float32:
    """A stored mask or matte to [0, 1]: whole numbers fill the range of their type, others are as they stand.

    Raises:
        ValueError: a number is outside [0, 1]; NaN is unknown.
    """
    if stored.dtype in (np.uint8, np.uint16):
        return (stored / np.iinfo(stored.dtype).max).astype(np.float32)
    if not ((stored >= 0) & (stored <= 1) | np.isnan(stored)).all():
        raise ValueError(
            f"its values go from {np.nanmin(stored):g} to {np.nanmax(stored):g}, expected [0, 1]"
        )
    return stored.astype(np.float32)


def unit_or_zero(vectors: Array, shortest: float = 0.0) -> Float32:
    """Normalise [H, W, 3]; vectors not longer than ``shortest`` become zero."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1.0)  # squares of tiny numbers would be zero
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    known = largest * length > shortest
    return np.where(known, scaled / np.where(known, length, 1.0), 0.0).astype(np.float32)
