"""What a camera says of itself, for pictures of other sizes."""

import numpy as np
import pytest

from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics

VGA = CameraInfo.of(Intrinsics(600.0, 610.0, 320.0, 239.5), (480, 640))


def seen(info, point):
    """(column, row) in pixels, by P as in CameraInfo.msg."""
    u, v, w = np.reshape(info.p, (3, 4)) @ [*point, 1.0]
    return u / w, v / w


@pytest.mark.parametrize("hw", [(240, 320), (960, 1280), (120, 640)])
def test_a_point_is_seen_at_the_same_place_of_a_resized_picture(hw):
    small = VGA.resized(hw)
    for point in ((0.0, 0.0, 2.0), (0.4, -0.3, 1.5)):
        (u, v), (u2, v2) = seen(VGA, point), seen(small, point)
        assert (u2 + 0.5) / hw[1] == pytest.approx((u + 0.5) / 640)
        assert (v2 + 0.5) / hw[0] == pytest.approx((v + 0.5) / 480)
    assert (small.height, small.width) == hw
    back = small.resized((480, 640))
    assert back.k == pytest.approx(VGA.k)
    assert back.p == pytest.approx(VGA.p)


def test_its_own_size_is_no_change():
    assert VGA.resized((480, 640)) is VGA


def test_intrinsics_are_those_it_was_made_of():
    assert VGA.intrinsics == Intrinsics(600.0, 610.0, 320.0, 239.5)


def test_a_camera_that_does_not_know_has_none():
    blank = CameraInfo(480, 640, (0.0,) * 9, (0.0,) * 12)
    assert not blank.is_calibrated
    assert blank.intrinsics is None
