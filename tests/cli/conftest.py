"""What a run needs: a bundle whose result is known, and a picture of its size."""

import cv2
import numpy as np
import pytest

from tests.plain_bundle import HW, write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path, rng):
    """A PNG of the engine's size and its RGB."""
    rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path, rgb
