"""Frames of any size, steady depth and metres in C, against Python's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.kinds import KINDS
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.steps import metric
from e2e_deploy.runtime.steps.steady import SETTLE, Stabiliser
from tests.native.library import NativeError
from tests.plain_bundle import HW, write_plain_bundle

# Sums of products are NumPy's BLAS's in Python, which adds in an order of its own.
ROUNDING = 1e-9
PLANE_M = 1.38  # so that one row of the smaller picture sees it 49.7 m away, where 50 is the end
DISTANCES = [kind for kind in KINDS.values() if kind.form == "distance"]


@pytest.fixture(scope="module")
def engines(native, native_onnxruntime, tmp_path_factory):
    """(C's, Python's) for frames of 24x32, whose results are the frame itself, its mean and a vector."""
    folder = tmp_path_factory.mktemp("fit")
    pairs = []
    for task in ("geometry", "appearance"):
        root = write_plain_bundle(folder / task, task=task)
        ours = native.engine(root, onnxruntime=native_onnxruntime, threads=1)
        theirs = e2e.load(root, backend="onnxruntime", device="cpu", threads=1)
        pairs.append((ours, theirs))
    yield pairs
    for pair in pairs:
        for engine in pair:
            engine.close()


@settings(max_examples=60)
@given(height=st.integers(16, 150), width=st.integers(16, 150), seed=st.integers(0, 99))
def test_frames_of_any_size_give_the_same_bits(engines, height, width, seed):
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for ours, theirs in engines:
        try:
            wanted = theirs.predict(frame)
        except E2EDeployError as error:
            with pytest.raises(NativeError) as caught:
                ours(frame[None])
            refusals = [(caught.value.code, str(caught.value)), (error.exit_code, str(error))]
            assert len(set(refusals)) == 1
            continue
        results = ours(frame[None])
        assert list(results) == list(wanted)
        for name, result in wanted.items():
            np.testing.assert_array_equal(results[name][0].view(np.uint32), result.view(np.uint32))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_blocks_have_a_way_of_their_own(engines, rng, factor):
    frame = rng.integers(0, 256, (HW[0] * factor, HW[1] * factor, 3), dtype=np.uint8)
    ours, theirs = engines[1]
    for name, result in theirs.predict(frame).items():
        np.testing.assert_array_equal(ours(frame[None])[name][0], result)


def flickering(rng, hw, count):
    """Maps of one scene whose scale and shift change, with noise, things that move, and holes."""
    down, right = np.mgrid[: hw[0], : hw[1]]
    scene = 0.2 + 0.5 * down / hw[0] + 0.1 * np.sin(right / 7)
    for index in range(count):
        depth = scene + 0.003 * rng.standard_normal(hw)
        left = 3 * index % (hw[1] - 12)
        depth[10:25, left : left + 12] = 0.1
        depth = (depth * rng.uniform(0.8, 1.2) + rng.uniform(-0.1, 0.1)).astype(np.float32)
        if index % 5 == 4:
            depth[3:6, 5:9] = (np.nan, np.inf, -np.inf, np.nan)
        yield depth


@pytest.mark.parametrize("hw", [(48, 64), (97, 131), (120, 160), (240, 320)])
def test_steady_depth_is_pythons(native, rng, hw):
    """Over scene cuts, holes, and the frames after which the mean scale and shift are kept."""
    theirs, largest = Stabiliser(), 0.0
    maps = [*flickering(rng, hw, 12)]
    maps[7:7] = [np.full(hw, np.nan, np.float32), np.float32(1) - maps[0].T.copy().reshape(hw)]
    for noise in np.arange(0.01, 0.13, 0.01):  # from what is a fit to what is a cut
        maps += [maps[-1], (maps[-1] + noise * rng.standard_normal(hw)).astype(np.float32)]
    if hw == (48, 64):
        maps += [
            depth * np.float32(1 + (i > SETTLE) / 4)
            for i, depth in enumerate(flickering(rng, hw, SETTLE + 60))
        ]
    maps.append(np.full((60, 80), 0.5, np.float32))
    with native.steady() as steady:
        cuts = 0
        for depth in maps:
            wanted = theirs(depth)
            result, how = steady(depth)
            last = theirs.last
            assert bool(how.cut) == last.cut
            assert how.scale == pytest.approx(last.scale, rel=ROUNDING)
            assert how.shift == pytest.approx(last.shift, abs=ROUNDING)
            assert how.residual == pytest.approx(last.residual, rel=1e-6, abs=ROUNDING)
            np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-6)
            cuts += how.cut
            largest = max(largest, abs(how.scale - 1))
        assert cuts >= 2
        assert largest > 0.05


def test_steady_depth_in_its_own_memory_and_after_a_reset(native, rng):
    first, second = flickering(rng, (48, 64), 2)
    with native.steady() as steady:
        steady(first)
        wanted, _ = steady(second)
        steady.reset()
        np.testing.assert_array_equal(steady(second)[0], second)
        steady.reset()
        steady(first)
        kept = second.copy()
        steady(kept, out=kept)
        np.testing.assert_array_equal(kept, wanted)


def measured(rng, kind, count, wrong=0.0, hw=(60, 80)):
    """A map of ``kind`` and points on it, in metres; a share of them is wrong, some lie outside or nowhere."""
    metres = rng.uniform(1.0, 20.0, hw)
    value = (metres**kind.power - 0.02) / 0.9 if kind.power < 0 else (metres - 0.5) / 30
    column, row = rng.uniform(-0.4, hw[1] - 0.6, count), rng.uniform(-0.4, hw[0] - 0.6, count)
    z = metres[np.rint(row).astype(int), np.rint(column).astype(int)]
    z *= 1 + 0.01 * rng.standard_normal(count)
    z[: int(count * wrong)] = rng.uniform(0.5, 40, int(count * wrong))
    points = np.stack([column, row, z], axis=1)
    nowhere = [(-5, 3, 2), (4, 1e9, 2), (np.nan, 2, 2), (3, 3, -1), (3, 3, np.inf), (3, 3, 0)]
    return value.astype(np.float32), rng.permutation(np.concatenate([points, nowhere]))


@pytest.mark.parametrize("kind", DISTANCES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("count", "wrong"), [(4, 0.0), (7, 0.0), (300, 0.4), (5000, 0.3)])
def test_metres_from_points_are_pythons(native, rng, kind, count, wrong):
    depth, points = measured(rng, kind, count, wrong)
    depth[5, 5:9] = (np.nan, np.inf, -np.inf, -30)
    theirs = metric.fit_metric(depth, points, space=kind.name)
    ours = native.metric_from_points(depth, points, kind.name)
    assert (ours.points, ours.power) == (theirs.points, kind.power)
    assert ours.inliers == theirs.inliers
    for name in ("scale", "shift", "residual_m", "residual"):
        # A residual of points that were fitted exactly is rounding.
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=ROUNDING, abs=1e-12)
    wanted, metres = theirs.apply(depth), native.metres(ours, depth)
    np.testing.assert_array_equal(np.isnan(metres), np.isnan(wanted))
    assert np.isnan(metres).any()
    np.testing.assert_allclose(metres, wanted, rtol=1e-6)


@pytest.mark.parametrize("problem", ["few", "flat", "falling", "other"])
def test_points_that_give_no_metres_are_refused_as_in_python(native, rng, problem):
    depth, points = measured(rng, KINDS["depth"], 40)
    if problem == "few":
        points = points[:3]
    elif problem == "flat":
        depth[:] = 0.5
    elif problem == "falling":
        depth = 1 - depth
    else:
        points[:, 2] = rng.uniform(0.5, 40, len(points))
    with pytest.raises(E2EDeployError) as theirs:
        metric.fit_metric(depth, points)
    with pytest.raises(NativeError) as ours:
        native.metric_from_points(depth, points)
    assert (ours.value.code, str(ours.value)) == (theirs.value.exit_code, str(theirs.value))


@pytest.mark.parametrize("hw", [(60, 80), (480, 640)])
@pytest.mark.parametrize("normal", [(0, 1, 0), (0.1, 2, 0.7)])
def test_metres_from_a_plane_are_pythons(native, rng, hw, normal):
    camera = Intrinsics(0.9 * hw[1], 0.9 * hw[1], hw[1] / 2, hw[0] / 3)
    points = metric.plane_points(hw, camera, PLANE_M, normal)
    depth = rng.uniform(0.2, 0.9, hw).astype(np.float32)
    column, row = points[:, 0].astype(int), points[:, 1].astype(int)
    depth[row, column] = (points[:, 2] - 0.3) / 40 + 0.001 * rng.standard_normal(len(points))
    theirs = metric.fit_metric(depth, points, min_inliers=metric.MIN_PLANE_INLIERS)
    ours = native.metric_from_plane(depth, vars(camera), PLANE_M, normal)
    assert ours.points == theirs.points
    assert ours.scale == pytest.approx(theirs.scale, rel=ROUNDING)
    assert ours.shift == pytest.approx(theirs.shift, rel=ROUNDING)
    assert ours.inliers == theirs.inliers


@pytest.mark.parametrize(
    ("camera", "distance_m", "normal"),
    [
        ("50,50,40,30", 0.0, (0.0, 1.0, 0.0)),
        ("50,50,40,30", float("nan"), (0.0, 1.0, 0.0)),
        ("50,50,40,30", 1.5, (0.0, 0.0, 0.0)),
        ("50,50,40,30", 1.5, (0.0, 1.0, float("inf"))),
        ("50,50,40,30", 60.0, (0.0, 1.0, 0.0)),
        ("0,50,40,30", 1.5, (0.0, 1.0, 0.0)),
        ("50,50,nan,30", 1.5, (0.0, 1.0, 0.0)),
        ("50,50,40,2000000", 1.5, (0.0, 1.0, 0.0)),
    ],
)
def test_planes_that_are_none_are_refused(native, camera, distance_m, normal):
    depth = np.full((60, 80), 0.5, np.float32)
    with pytest.raises(E2EDeployError) as theirs:
        metric.plane_points(depth.shape, Intrinsics.parse(camera), distance_m, normal)
    given_camera = dict(zip(("fx", "fy", "cx", "cy"), map(float, camera.split(",")), strict=True))
    with pytest.raises(NativeError) as ours:
        native.metric_from_plane(depth, given_camera, distance_m, normal)
    assert ours.value.code == theirs.value.exit_code
    assert str(ours.value).split(":")[0].split(" m")[0] in str(theirs.value).replace(".0", "")
