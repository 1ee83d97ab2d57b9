"""From noisy linear light to an 8-bit picture: denoising, exposure, tone curve, sensor noise.

Knows pixels only; nothing of scenes or Mitsuba.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_STEPS = (1, 2, 4)
_NORMAL_SHARPNESS = 30.0
_PLANE_TOLERANCE = 0.004
_LIGHT_TOLERANCE = 0.35


@dataclass(frozen=True)
class Look:
    """How the camera develops linear light into a picture.

    Attributes:
        exposure_ev: stops brighter (+) or darker (-) than the automatic exposure.
        white_balance: gain of each linear channel, about 1.
        contrast: slope of the tone curve around mid grey, about 1.
        noise: standard deviation of the sensor noise, display values 0..1.
    """

    exposure_ev: float
    white_balance: tuple[float, float, float]
    contrast: float
    noise: float


def denoise(
    linear_HW3: Float32, albedo_HW3: Float32, points_HW3: Float32, normals_HW3: Float32
) -> Float32:
    """Smooths the light on surfaces and leaves their textures, edges and shadow borders alone.

    The edge-avoiding a-trous filter (Dammertz et al., High-Performance Graphics 2010) on the light
    divided by the albedo.

    Args:
        linear_HW3: linear light, float32 `[H, W, 3]`.
        albedo_HW3: colour of the surfaces, same samples, float32 `[H, W, 3]` in 0..1.
        points_HW3: where the pixel centres hit, camera coordinates, metres; 0 for the sky.
        normals_HW3: unit normals there, 0 for the sky.
    """
    hit_HW1 = np.abs(normals_HW3).sum(axis=-1, keepdims=True) > 0
    base = np.where(hit_HW1, np.maximum(albedo_HW3, 0.03), np.float32(1))
    light = linear_HW3 / base
    # A light path that found a lamp by luck leaves one white pixel; its neighbours bound it.
    light = np.minimum(light, 3 * cv2.medianBlur(light, 5) + np.float32(0.02))
    level = np.log(cv2.GaussianBlur(light, (0, 0), 1.5).mean(axis=-1) + np.float32(1e-3))
    distance = np.maximum(np.linalg.norm(points_HW3, axis=-1), 1e-3)
    guides = np.concatenate([points_HW3, normals_HW3, level[..., None]], axis=-1)
    height, width = hit_HW1.shape[:2]
    for step in _STEPS:
        pad = ((step, step), (step, step), (0, 0))
        padded, padded_light = np.pad(guides, pad, mode="edge"), np.pad(light, pad, mode="edge")
        total, weights = light.copy(), np.ones((height, width, 1), np.float32)
        for down, right in itertools.product((0, step, 2 * step), repeat=2):
            if down == right == step:
                continue
            window = np.s_[down : down + height, right : right + width]
            other = padded[window]
            turned = 1 - np.einsum("hwc,hwc->hw", other[..., 3:6], normals_HW3)
            off = np.einsum("hwc,hwc->hw", other[..., :3] - points_HW3, normals_HW3) / distance
            brighter = other[..., 6] - level
            cost = turned * _NORMAL_SHARPNESS + (off / (_PLANE_TOLERANCE * step)) ** 2
            weight = np.exp(-cost - (brighter / _LIGHT_TOLERANCE) ** 2)[..., None]
            total += weight * padded_light[window]
            weights += weight
        light = np.where(hit_HW1, total / weights, light).astype(np.float32)
    return np.asarray(light * base, np.float32)


def auto_exposure(linear_HW3: Float32) -> float:
    """The gain that brings the log-average to mid grey and leaves nine tenths of the picture unburnt."""
    luminance = linear_HW3 @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    average = float(np.exp(np.log(luminance + 1e-4).mean()))
    bright = float(np.percentile(luminance, 92))
    return min(0.2 / average, 1.1 / max(bright, 1e-4))


def develop(
    linear_HW3: Float32, look: Look, exposure: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Linear light times ``exposure`` to a uint8 picture: white balance, tone curve, sensor noise."""
    gain = exposure * 2.0**look.exposure_ev * np.asarray(look.white_balance)
    light = np.maximum(linear_HW3 * gain.astype(np.float32), 0.0)
    shoulder = 0.6  # above it highlights roll off towards white instead of clipping
    over = np.maximum(light - shoulder, 0.0)
    light = np.minimum(light, shoulder) + (1 - shoulder) * (1 - np.exp(-over / (1 - shoulder)))
    display = np.clip(0.45 + (light ** (1 / 2.2) - 0.45) * look.contrast, 0, 1)
    display = display + rng.normal(0, 1, display.shape) * look.noise
    return np.asarray(np.rint(np.clip(display, 0, 1) * 255), np.uint8)
