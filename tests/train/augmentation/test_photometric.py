import cv2
import numpy as np
import pytest

from e2e_deploy.train.augmentation import photometric
from e2e_deploy.train.augmentation.photometric import blurred, compressed, noisy, recoloured

CHANGES = (recoloured, blurred, noisy, compressed)


@pytest.fixture
def picture():
    """Soft shapes with all colours and no clipped pixels."""
    y, x = np.mgrid[:48, :64]
    waves = [np.sin(x / 9) + np.cos(y / 7), np.sin((x + y) / 11) * 2, np.cos(x / 5 - y / 8) * 2]
    return (128 + 45 * np.stack(waves, -1)).astype(np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_that_of_its_generator_and_leaves_its_source_alone(change, picture):
    before = picture.copy()
    once, again = change(picture, rng(3)), change(picture, rng(3))
    assert once.dtype == np.uint8
    assert once.shape == picture.shape
    assert np.array_equal(once, again)
    assert np.array_equal(picture, before)
    results = {change(picture, rng(seed)).tobytes() for seed in range(12)}
    assert len(results) > 6
    assert before.tobytes() not in results


@pytest.mark.parametrize("change", [blurred, noisy, compressed])
def test_blur_noise_and_compression_keep_what_is_shown(change, picture):
    """A shift by one pixel, which would move the picture off its truth, costs more than any of them."""
    shifted = np.abs(np.roll(picture, 1, 1).astype(int) - picture)[:, 1:].mean()
    for seed in range(30):
        changed = cv2.GaussianBlur(change(picture, rng(seed)), (0, 0), 2).astype(int)
        gone = np.abs(changed - cv2.GaussianBlur(picture, (0, 0), 2))
        assert gone[4:-4, 4:-4].mean() < 0.6 * shifted


def test_colours_are_curves_of_each_channel_then_saturation(picture, monkeypatch):
    for name in ("EXPOSURE_EV", "WHITE_BALANCE", "GAMMA", "GREY"):
        monkeypatch.setattr(photometric, name, 0)
    monkeypatch.setattr(photometric, "SATURATION", (1, 1))
    assert np.abs(recoloured(picture, rng()).astype(int) - picture).max() <= 1
    monkeypatch.setattr(photometric, "SATURATION", (0, 0))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    assert np.abs(recoloured(picture, rng()).astype(int) - grey).max() <= 1
    monkeypatch.setattr(photometric, "SATURATION", (1, 1))
    monkeypatch.setattr(photometric, "EXPOSURE_EV", 1)
    # One stop brighter is 2 ** (1 / 2.2) = 1.37 times the display value, until it is clipped.
    brightest = max(recoloured(picture, rng(seed)).mean() for seed in range(200))
    assert brightest == pytest.approx(np.minimum(picture * 1.3704, 255).mean(), rel=0.02)


def test_a_line_of_motion_does_not_move_the_picture():
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    for seed in range(60):
        light = blurred(dot, rng(seed))[..., 0].astype(float)
        y, x = ((np.mgrid[:41, :41] * light).sum((1, 2)) / light.sum()).tolist()
        assert (y, x) == pytest.approx((20, 20), abs=0.35)


def test_noise_grows_with_the_light():
    flat = np.repeat(np.uint8([[30], [220]]), 5000, 1)[..., None].repeat(3, 2)
    drawn = [noisy(flat, rng(seed)).astype(float) for seed in range(4)]
    dark, bright = (np.mean([one[row].std() for one in drawn]) for row in (0, 1))
    assert 1.2 < bright / dark < 1.7
