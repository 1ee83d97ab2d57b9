import numpy as np
import pytest

from e2e_deploy.metrics import angular_error_deg
from e2e_deploy.train.data.normals_from_depth import normals_from_depth
from e2e_deploy.train.data.sample import Camera

CAMERA = Camera(fx=80.0, fy=90.0, cx=31.5, cy=23.5)
HEIGHT, WIDTH = 48, 64


def rays():
    """Direction of every pixel: x right, y down, z forward with z = 1."""
    x = (np.arange(WIDTH) - CAMERA.cx) / CAMERA.fx
    y = (np.arange(HEIGHT) - CAMERA.cy) / CAMERA.fy
    return np.stack([*np.meshgrid(x, y), np.ones((HEIGHT, WIDTH))], axis=-1)


def plane(normal_rub, distance):
    """Depth of the plane with this outward normal (x right, y up, z back) at this distance."""
    right, up, back = np.asarray(normal_rub) / np.linalg.norm(normal_rub)
    return (-distance / (rays() @ np.array([right, -up, -back]))).astype(np.float32)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.4, 0, 1), (0, 1, 0.6), (-0.5, -0.3, 0.8)])
def test_a_plane_is_exact_up_to_its_border(normal):
    depth = plane(normal, 3.0)
    depth[(depth < 0) | (depth > 200)] = 0
    got = normals_from_depth(depth, CAMERA)
    expected = np.broadcast_to(np.asarray(normal) / np.linalg.norm(normal), got.shape)
    known = np.linalg.norm(got, axis=-1) > 0.5
    assert known.mean() > 0.9 * (depth > 0).mean()
    assert np.nanmax(angular_error_deg(got, expected, known)) < 0.2
    assert np.linalg.norm(got, axis=-1)[known] == pytest.approx(1, abs=1e-6)


def test_the_axes_are_right_up_and_toward_the_viewer():
    floor = normals_from_depth(plane((0, 1, 0.2), 2.0), CAMERA)[40, 32]
    wall_on_the_left = normals_from_depth(plane((1, 0, 0.5), 2.0), CAMERA)[24, 32]
    assert floor[1] > 0.9
    assert wall_on_the_left[0] > 0.8
    assert floor[2] > 0


def test_a_sphere():
    directions = rays()
    a = (directions**2).sum(-1)
    b = directions[..., 2] * 4.0
    inside = b**2 - a * (16 - 1)
    depth = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0).astype(np.float32)
    points = directions * depth[..., None]
    expected = (points - [0, 0, 4]) * [1, -1, -1]
    got = normals_from_depth(depth, CAMERA)
    error = angular_error_deg(got, expected, depth > 0)
    assert np.nanmedian(error) < 0.3
    # Near the silhouette the surface turns within a pixel; away from it the error stays small.
    frontal = expected[..., 2] > 0.8
    assert np.nanmax(error[frontal]) < 2


def test_a_step_edge_does_not_bend_the_surfaces():
    near, far = plane((0.3, 0.2, 1), 2.0), plane((-0.2, 0.1, 1), 8.0)
    depth = np.where(np.arange(WIDTH) < 30, near, far)
    got = normals_from_depth(depth, CAMERA)
    expected = np.where(
        (np.arange(WIDTH) < 30)[None, :, None],
        np.array([0.3, 0.2, 1]) / np.linalg.norm([0.3, 0.2, 1]),
        np.array([-0.2, 0.1, 1]) / np.linalg.norm([-0.2, 0.1, 1]),
    )
    expected = np.broadcast_to(expected, got.shape)
    assert np.nanmax(angular_error_deg(got, expected, depth > 0)) < 0.5


def test_holes_are_unknown_and_do_not_spread():
    depth = plane((0.3, 0.2, 1), 2.0)
    depth[10:14, 20:24] = 0
    depth[30, 40], depth[30, 41], depth[30, 50] = np.nan, np.inf, -1
    got = normals_from_depth(depth, CAMERA)
    known = np.linalg.norm(got, axis=-1) > 0
    assert np.array_equal(known, np.isfinite(depth) & (depth > 0))
    expected = np.broadcast_to([0.3, 0.2, 1.0], got.shape)
    assert np.nanmax(angular_error_deg(got, expected, known)) < 0.5


def test_quantised_depth_stays_usable():
    depth = np.round(plane((0.5, 0.4, 1), 5.0) * 100) / 100
    expected = np.broadcast_to([0.5, 0.4, 1.0], (HEIGHT, WIDTH, 3))
    got = normals_from_depth(depth.astype(np.float32), CAMERA)
    assert np.nanmedian(angular_error_deg(got, expected, depth > 0)) < 5


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"\(4, 4, 1\)"):
        normals_from_depth(np.ones((4, 4, 1), np.float32), CAMERA)
