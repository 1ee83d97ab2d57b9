"""A picture as another camera, another light or a worse lens would have given it: nothing in it moves.

Knows: pixels. Does not know: settings, truths. Everything works on uint8 RGB `[H, W, 3]` and takes its chance from one
generator, so the same generator gives the same picture on every machine with the same OpenCV.
"""

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Rng = np.random.Generator

EXPOSURE_EV = 1.2
"""Stops darker or brighter, at most."""
WHITE_BALANCE = 0.25
"""Natural logarithm of the gain of red and of blue, at most."""
GAMMA = 0.35
"""Natural logarithm of the exponent of the tone curve, at most."""
SATURATION = (0.0, 1.6)
GREY = 0.08
"""Chance of a picture without colours."""
BLUR_SIGMA = (0.3, 1.6)
"""Pixels of the picture that is trained."""
MOTION_PIXELS = (3, 8)
"""Length of the line that a shaken camera draws."""
NOISE = (0.004, 0.06)
"""Standard deviation of a mid grey, where white is 1."""
JPEG_QUALITY = (25, 95)

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_SRGB = 2.2


def recoloured(picture: Picture, rng: Rng) -> Picture:
    """Exposure and white balance in linear light, clipped as a sensor clips; then a tone curve and saturation."""
    gains = 2.0 ** rng.uniform(-EXPOSURE_EV, EXPOSURE_EV) * np.exp(
        rng.uniform(-WHITE_BALANCE, WHITE_BALANCE, 3) * [1, 0, 1]
    )
    exponent = np.exp(rng.uniform(-GAMMA, GAMMA)) / _SRGB
    linear = (np.arange(256)[:, None] / 255) ** _SRGB * gains
    curve = np.rint(255 * np.minimum(linear, 1) ** exponent).astype(np.uint8)
    toned = cv2.LUT(picture, curve[None])
    colours = rng.uniform(*SATURATION)
    if rng.random() < GREY:
        colours = 0.0
    mix = colours * np.eye(3) + (1 - colours) * np.tile(_LUMINANCE, (3, 1))
    return np.asarray(cv2.transform(toned, mix), np.uint8)


def blurred(picture: Picture, rng: Rng) -> Picture:
    """Out of focus, or in every third picture shaken along a line."""
    if rng.random() < 2 / 3:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(*BLUR_SIGMA)), np.uint8)
    length, angle = int(rng.integers(*MOTION_PIXELS)), rng.uniform(0, np.pi)
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    across, down = round(np.cos(angle) * length / 2), round(np.sin(angle) * length / 2)
    ends = (length - across, length - down), (length + across, length + down)
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA)
    # Replicated borders: OpenCV's default mirrors the picture, which no shaken camera does.
    return np.asarray(
        cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8
    )


def noisy(picture: Picture, rng: Rng) -> Picture:
    """Noise of a sensor: half of its variance is everywhere, half grows with the light."""
    spread = 255 * rng.uniform(*NOISE)
    drawn = rng.standard_normal(picture.shape, np.float32)
    values = picture.astype(np.float32)
    values += drawn * spread * np.sqrt(0.5 + values / 255)
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def compressed(picture: Picture, rng: Rng) -> Picture:
    """Through JPEG and back."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*JPEG_QUALITY))]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], quality)
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert again is not None  # what OpenCV has just written
    return np.ascontiguousarray(again[..., ::-1], np.uint8)
