import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.kinds import KINDS
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.metric import fit_metric, metric, plane_points, read_points

H, W = 60, 80
CAMERA = Intrinsics(70.0, 70.0, 39.5, 29.5)


def points_of(truth_m, count, rng):
    rows, columns = rng.integers(0, H, count), rng.integers(0, W, count)
    return np.stack([columns, rows, truth_m[rows, columns]], axis=1)


@settings(max_examples=100)
@given(
    near=st.floats(0.3, 5.0),
    depth=st.floats(1.0, 40.0),
    wrong=st.floats(0.0, 0.4),
    space=st.sampled_from(["depth", "disparity", "sqrt-disparity"]),
    seed=st.integers(0, 2**16),
)
@example(near=4.0, depth=1.0, wrong=0.375, space="depth", seed=0)  # half of the wrong ones are near
def test_the_metric_map_comes_back_with_two_fifths_of_the_points_wrong(
    near, depth, wrong, space, seed
):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(near, near + depth, (H, W))
    flat = truth ** KINDS[space].power
    model = (flat - flat.min()) / np.ptp(flat)  # all that an affine-invariant model knows
    points = points_of(truth, 200, rng)
    points[: int(200 * wrong), 2] = rng.uniform(near, near + depth, int(200 * wrong))
    fit = fit_metric(model, points, space=space)
    got = fit.apply(model.astype(np.float32))
    np.testing.assert_allclose(got, truth, rtol=1e-4)
    assert fit.inliers >= 0.99 - wrong
    assert fit.residual < 1e-6
    assert fit.points == 200


def test_noise_is_averaged_and_reported(rng):
    truth = rng.uniform(1, 10, (H, W))
    model = (truth - 1) / 9
    points = points_of(truth, 500, rng)
    points[:, 2] *= 1 + 0.02 * rng.standard_normal(500)
    fit = fit_metric(model, points)
    assert (fit.scale, fit.shift) == pytest.approx((9, 1), rel=0.03)
    assert fit.residual == pytest.approx(0.6745 * 0.02, rel=0.15)  # the median of |N(0, 0.02)|
    metres = np.abs(0.02 * rng.standard_normal(100_000)) * rng.uniform(1, 10, 100_000)
    assert fit.residual_m == pytest.approx(np.median(metres), rel=0.2)
    assert fit.inliers == 1.0


def test_the_same_input_gives_the_same_fit(rng):
    truth = rng.uniform(1, 10, (H, W))
    points = points_of(truth, 50, rng)
    points[:20, 2] = 3.0
    assert fit_metric(truth / 20, points) == fit_metric(truth / 20, points)


def test_what_lies_behind_the_camera_is_unknown(rng):
    truth = rng.uniform(1, 2, (H, W))
    fit = fit_metric(truth - 1, points_of(truth, 50, rng))
    got = fit.apply(np.array([[0.5, -1.5, np.nan]], np.float32))
    np.testing.assert_allclose(got, [[1.5, np.nan, np.nan]], rtol=1e-5)


def test_points_that_belong_to_another_picture(rng):
    model = rng.random((H, W))
    with pytest.raises(InputError, match=r"do not fit the picture: \d+% of 300"):
        fit_metric(model, points_of(rng.uniform(0.5, 30, (H, W)), 300, rng))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"depth": np.zeros((1, H, W), np.float32)}, r"one map \[H, W\], not \[1, "),
        ({"points": [[1.0, 2.0]]}, r"\[N, 3\], not \[1, 2\]"),
        ({"points": [["a", "b", "c"]]}, "three numbers"),
        ({"points": [[1, 2, 3], [1, 2]]}, "three numbers"),
        ({"space": "normals"}, "`space` is 'normals'; distances are depth, disparity, sqrt-disp"),
        ({"space": ["depth"]}, "`space` is"),
        ({"min_inliers": 0.0}, "`min_inliers` is 0.0"),
        ({"min_inliers": float("nan")}, "`min_inliers` is nan"),
    ],
)
def test_what_is_no_map_no_points_or_no_distance(changed, said):
    given = {"depth": np.zeros((H, W), np.float32), "points": np.ones((5, 3))} | changed
    with pytest.raises(UsageError, match=said):
        fit_metric(given.pop("depth"), given.pop("points"), **given)


@pytest.mark.parametrize("model", [np.full((H, W), 0.5), np.tile(np.linspace(1, 0, W), (H, 1))])
def test_points_that_tell_no_scale(model, rng):
    truth = np.tile(np.linspace(1, 5, W), (H, 1))
    with pytest.raises(InputError, match="do not tell a scale"):
        fit_metric(model, points_of(truth, 50, rng))


def test_points_outside_the_picture_or_without_a_distance_do_not_count(rng):
    truth = rng.uniform(1, 10, (H, W))
    good = points_of(truth, 20, rng)
    bad = [[-1, 5, 2], [W, 5, 2], [5, H, 2], [5, 5, -1], [5, 5, 0], [5, 5, np.nan], [np.inf, 1, 1]]
    fit = fit_metric(truth / 20, np.concatenate([good, bad]))
    assert (fit.points, fit.inliers) == (20, 1.0)
    with pytest.raises(InputError, match=r"0 metric points lie in the 80x60 picture; at least 4"):
        fit_metric(truth / 20, bad)
    with pytest.raises(UsageError, match=r"\[N, 3\], not \[4\]"):
        fit_metric(truth / 20, [1, 2, 3, 4])


def test_a_camera_height_gives_metres_although_things_stand_on_the_ground(rng):
    """A ground 1.2 m below a camera that looks down by 10 degrees, with a wall and boxes."""
    down = np.radians(10)
    normal = (0.0, np.cos(down), np.sin(down))
    v, u = np.mgrid[:H, :W]
    toward = CAMERA.rays(u, v) @ normal
    ground = np.where(toward > 1e-3, 1.2 / np.maximum(toward, 1e-3), np.inf)
    truth = np.minimum(ground, 8.0)  # a wall
    truth[20:45, 10:30] = np.minimum(truth[20:45, 10:30], 2.0)
    model = (truth - truth.min()) / np.ptp(truth) + 0.002 * rng.standard_normal((H, W))
    fit = fit_metric(model, plane_points((H, W), CAMERA, 1.2, normal), min_inliers=0.1)
    assert (fit.scale, fit.shift) == pytest.approx((np.ptp(truth), truth.min()), rel=0.05)
    assert 0.3 < fit.inliers < 1.0


def test_plane_points_lie_on_the_plane():
    normal = (0.1, 0.9, 0.2)
    points = plane_points((H, W), CAMERA, 1.5, normal)
    xyz = CAMERA.rays(points[:, 0], points[:, 1]) * points[:, 2:]
    np.testing.assert_allclose(xyz @ np.array(normal) / np.linalg.norm(normal), 1.5)
    assert points[:, 2].max() < 50


@pytest.mark.parametrize(
    ("distance", "normal"),
    [(0.0, (0, 1, 0)), (-1.0, (0, 1, 0)), (1.0, (0, 0, 0)), (1.0, (0, 0, -1)), (np.nan, (0, 1, 0))],
)
def test_no_plane(distance, normal):
    with pytest.raises(UsageError, match="plane"):
        plane_points((H, W), CAMERA, distance, normal)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "a,b,c,d", "0,1,2,3", "1,nan,2,3", "1e308,1,2,3", "1,1,-inf,3"]
)
def test_intrinsics_that_are_none(text):
    with pytest.raises(UsageError, match="fx,fy,cx,cy"):
        Intrinsics.parse(text)
    assert Intrinsics.parse("1,2,3.5,4") == Intrinsics(1, 2, 3.5, 4)


def test_points_from_files(tmp_path, rng):
    points = rng.random((5, 3))
    np.save(tmp_path / "p.npy", points)
    (tmp_path / "p.csv").write_text(
        "# u, v, m\n" + "\n".join(", ".join(map(repr, p.tolist())) for p in points)
    )
    for name in ("p.npy", "p.csv"):
        np.testing.assert_array_equal(read_points(tmp_path / name), points)


@pytest.mark.parametrize("content", ["", "hello there you", "1 2\n3 4\n", "1 2 3\n4 5\n"])
def test_files_without_points(tmp_path, content):
    path = tmp_path / "p.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"p\.txt"):
        read_points(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "missing.txt")


def npy_of(header, data=b""):
    """A .npy file with a header of one's own."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s}"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin as a .npy file does"),
        (b"\x93NUMPY", "magic string|expected 8 bytes"),
        (b"PK\x03\x04 half of a zip", "does not begin as a .npy file does"),
        (npy_of(HEADER % ("<f8", (10**11, 3))), r"promises float64 .* and 0 follow"),
        (npy_of(HEADER % ("<f8", (10**4000, 3))), "holds no table of numbers"),
        (npy_of(HEADER % ("<f8", (-2, -3)), bytes(48)), "holds no table of numbers"),
        (npy_of(HEADER % ("|O", (2, 3)), pickle.dumps([print] * 6)), "promises object"),
        (npy_of(HEADER % ("<c16", (1, 3)), bytes(48)), "promises complex128"),
        (npy_of(HEADER % ("<f8", (2, 3)), bytes(24)), "48 bytes, and 24 follow"),
        (npy_of("{" + "-" * 90 + "}"), "holds no table of numbers"),
    ],
)
def test_a_npy_file_that_is_not_what_it_says(tmp_path, content, said):
    path = tmp_path / "p.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_points(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.timeout(10)
@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_points_are_in_a_regular_file_of_some_size(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="cannot be read: it is a device, not a regular file"):
        read_points(path)
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes, and at most 67,108,864"):
        read_points(path)


def test_points_far_outside_or_unknown_are_left_out(rng):
    truth = rng.uniform(1, 10, (H, W))
    rows = [
        *points_of(truth, 50, rng),
        [1e300, 2, 3],
        [np.nan, 1, 1],
        [1, -np.inf, 1],
        [1, 1, np.inf],
    ]
    assert fit_metric((truth / 20).astype(np.float32), rows).points == 50


def test_the_step_says_metres_and_how_well_they_fit(rng):
    truth = rng.uniform(1, 10, (H, W))
    model = (truth / 20).astype(np.float32)
    points = points_of(truth, 50, rng)
    frame = SourceFrame(np.zeros((H, W, 3), np.uint8), 0, None, "a")
    facts = {}
    got = metric(lambda hw: points)(frame, model, facts)
    np.testing.assert_allclose(got, truth, rtol=1e-4)
    told = json.loads(json.dumps(facts))
    assert told["metric"] is True
    assert told["units"].startswith("metres")
    assert told["metric_fit"]["inliers"] == 1.0
    assert told["range"] == [0.001, 65.535]


def test_a_fit_that_fails_gives_no_metres(rng):
    frame = SourceFrame(np.zeros((H, W, 3), np.uint8), 0, None, "a")
    facts = {}
    got = metric(lambda hw: [[1, 1, 1.0]])(frame, np.ones((H, W), np.float32), facts)
    assert np.isnan(got).all()
    assert "at least 4 are needed" in facts["metric_fit"]["failed"]
