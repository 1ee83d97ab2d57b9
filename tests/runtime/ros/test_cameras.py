"""CameraInfo as the camera of the picture that arrives, and where its pixels look."""

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.ros import messages
from e2e_deploy.runtime.ros.cameras import camera_message, camera_of, rays
from e2e_deploy.runtime.ros.messages import Header, RegionOfInterest, Time

HW = (48, 64)
K = (60.0, 0.0, 31.0, 0.0, 62.0, 23.0, 0.0, 0.0, 1.0)
P = (55.0, 0.0, 30.0, 0.0, 0.0, 57.0, 22.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LENSES = {
    "plumb_bob": (-0.28, 0.07, 0.001, -0.0005, -0.01),
    "rational_polynomial": (0.1, -0.05, 0.0002, 0.0003, 0.01, 0.15, -0.03, 0.002),
    "equidistant": (-0.01, 0.02, -0.005, 0.001),
}


def camera(model="", d=()):
    return CameraInfo(*HW, K, P, model, tuple(d))


def info(**changes):
    given = camera_message(camera("plumb_bob", LENSES["plumb_bob"]), Header(Time(3, 4), "cam"))
    return messages.CameraInfo(**(vars(given) | changes))


def test_there_and_back_is_the_same():
    one = camera("plumb_bob", LENSES["plumb_bob"])
    assert camera_of(camera_message(one, Header())) == one


def test_a_rectified_picture_has_p_and_no_lens():
    seen = camera_of(info(), rectified=True)
    assert seen.intrinsics == Intrinsics(55.0, 57.0, 30.0, 22.0)
    assert seen.d == ()
    assert seen.p == P
    # Drivers without a calibrated P say zeros.
    assert camera_of(info(p=np.zeros(12)), rectified=True).k == K


def test_region_and_binning_are_in_the_camera_of_the_picture():
    """A point is seen where the whole sensor sees it, moved and halved (image_geometry)."""
    roi = RegionOfInterest(x_offset=10, y_offset=4, height=40, width=48)
    seen = camera_of(info(binning_x=2, binning_y=4, roi=roi))
    assert (seen.height, seen.width) == (10, 24)
    point = np.array([0.2, -0.1, 1.0])
    u, v, _ = np.reshape(K, (3, 3)) @ point
    small_u, small_v, _ = np.reshape(seen.k, (3, 3)) @ point
    assert (small_u, small_v) == pytest.approx(((u - 10) / 2, (v - 4) / 4))
    assert seen.p[2] == pytest.approx((P[2] - 10) / 2)


def test_a_camera_that_is_not_calibrated_stays_so():
    roi = RegionOfInterest(x_offset=10, y_offset=4, height=40, width=48)
    seen = camera_of(info(k=np.zeros(9), p=np.zeros(12), roi=roi))
    assert not seen.is_calibrated
    assert set(seen.k) == {0.0}
    assert rays(seen) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"k": np.full(9, np.nan)},
        {"p": np.full(12, np.inf)},
        {"k": np.zeros(4)},
        {"width": 0},
        {"binning_x": 100_000},
        {"k": np.array([1e300, 0, 1, 0, 1e300, 1, 0, 0, 1])},
        {"k": np.array([1e-300, 0, 1, 0, 1e-300, 1, 0, 0, 1])},
        {"roi": RegionOfInterest(x_offset=2**32 - 1)},
    ],
)
def test_what_no_camera_says_is_a_sentence(changes):
    with pytest.raises(SourceError, match="CameraInfo"):
        camera_of(info(**changes))


def test_rays_without_a_lens_are_the_formula_of_a_pinhole():
    seen = rays(camera())
    for v, u in ((0, 0), (47, 63), (23, 31)):
        assert seen[:, v, u] == pytest.approx(((u - 31.0) / 60.0, (v - 23.0) / 62.0))


@pytest.mark.parametrize("scale", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("model", LENSES)
def test_rays_through_a_lens_hit_the_pixels_they_are_of(model, scale):
    """Projected by OpenCV's own forward formula, which the undoing did not use; larger ones are undone on a grid."""
    large = camera(model, LENSES[model]).resized((HW[0] * scale, HW[1] * scale))
    seen = rays(large)
    some = np.s_[:: 1 + scale // 2, :: 1 + scale // 3]  # all would take the other formula seconds
    u, v = (plane[some] for plane in np.meshgrid(np.arange(large.width), np.arange(large.height)))
    x, y = (plane[some] for plane in seen)
    plain = np.stack([x, y, np.ones_like(x)]).astype(np.float64)
    points = np.moveaxis(plain, 0, 2).reshape(-1, 1, 3)
    lens = cv2.fisheye if model == "equidistant" else cv2
    d, k = np.array(LENSES[model]), np.reshape(large.k, (3, 3))
    pixels, _ = lens.projectPoints(points, np.zeros(3), np.zeros(3), k, d)
    missed = np.abs(pixels.reshape(*v.shape, 2) - np.stack([u, v], axis=-1)).max()
    assert missed < (1e-3 if scale == 1 else 0.02)
    straight = rays(CameraInfo.of(large.intrinsics, (large.height, large.width)))
    assert np.abs(seen - straight).max() > 0.005, "this lens does nothing"


def test_what_a_lens_cannot_have_seen_is_nan():
    """Of so strong a barrel the formula turns back before the corner."""
    seen = rays(camera("plumb_bob", (-2.5, 0.0, 0.0, 0.0)))
    assert np.isnan(seen[:, 0, 0]).all()
    assert np.isfinite(seen[:, 23, 31]).all()


@pytest.mark.parametrize(("model", "d"), [("somebody's", (0.1,) * 4), ("plumb_bob", (0.1,) * 3)])
def test_a_lens_that_is_not_known_has_no_rays(model, d):
    assert rays(camera(model, d)) is None
