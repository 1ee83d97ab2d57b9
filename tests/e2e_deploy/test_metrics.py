import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy import metrics


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_alignment_equals_numpy_least_squares(rng):
    pred, target = rng.random((20, 30)), rng.random((20, 30)) * 8 + 1
    valid = rng.random((20, 30)) > 0.3
    design = np.stack([pred[valid], np.ones(valid.sum())], axis=1)
    expected = np.linalg.lstsq(design, target[valid], rcond=None)[0]
    assert metrics.align_scale_shift(pred, target, valid) == pytest.approx(expected, abs=1e-12)


def test_alignment_keeps_precision_on_a_nearly_constant_prediction(rng):
    noise = rng.standard_normal((480, 640))
    pred = 0.7 + 1e-9 * noise
    target = 5 + 3e8 * (pred - 0.7)
    scale, shift = metrics.align_scale_shift(pred, target, np.ones(pred.shape, bool))
    assert scale == pytest.approx(3e8, rel=1e-6)
    assert scale * 0.7 + shift == pytest.approx(5, abs=1e-6)


def test_a_constant_prediction_aligns_to_the_mean():
    target = np.array([[1.0, 2.0, 6.0]])
    assert metrics.align_scale_shift(np.full((1, 3), 0.1), target, target > 0) == (0.0, 3.0)


def test_depth_metrics_by_hand():
    # Each pair of equal predictions has its own mean as target: the fit is scale 1, shift 0.
    pred = np.array([[1.0, 1.0, 3.0, 3.0]])
    target = np.array([[0.5, 1.5, 2.5, 3.5]])
    got = metrics.depth_metrics(pred, target, target > 0)
    assert got.abs_rel == pytest.approx(np.mean([1.0, 1 / 3, 0.2, 1 / 7]))
    assert got.sq_rel == pytest.approx(np.mean(0.25 / target))
    assert got.rmse == pytest.approx(0.5)
    logs = np.log([2, 2 / 3, 6 / 5, 6 / 7])
    assert got.rmse_log == pytest.approx(math.sqrt(np.mean(logs**2)))
    assert got.log10 == pytest.approx(np.mean(np.abs(logs)) / math.log(10))
    assert got.silog == pytest.approx(100 * math.sqrt(np.mean(logs**2) - np.mean(logs) ** 2))
    assert (got.delta1, got.delta2, got.delta3) == (0.5, 0.75, 0.75)
    assert got.num_valid == 4


@pytest.mark.parametrize("space", ["depth", "disparity", "sqrt-disparity"])
def test_a_negative_scale_is_the_only_sign_of_inverted_depth(rng, space):
    target = rng.random((9, 9)) * 5 + 1
    near = {"depth": target, "disparity": 1 / target, "sqrt-disparity": target**-0.5}[space]
    valid = np.ones(target.shape, bool)
    right = metrics.depth_metrics(0.3 * near, target, valid, space=space)
    inverted = metrics.depth_metrics(1 - 0.3 * near, target, valid, space=space)
    assert (right.negative_scale, inverted.negative_scale) == (0, 1)
    assert inverted.abs_rel == pytest.approx(right.abs_rel, abs=1e-12)
    assert metrics.mean_depth_metrics([right, right, inverted]).negative_scale == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0, 0, 0, 0], "no valid pixel"),
        ([0, 2, 0, 0], "fewer than 3 valid pixels"),
        ([0, 2, 5, 0], "fewer than 3 valid pixels"),
        ([3.3, 3.3, 3.3, 0], "the same depth everywhere"),
        ([3.3, 3.3000002, 3.3, 0], "the same depth everywhere"),
        ([3.3, 3.31, 3.3, 0], None),
    ],
)
def test_truths_that_any_prediction_fits_are_named(values, reason):
    target = np.array([values], np.float32)
    assert metrics.why_unmeasurable(target, target > 0) == reason


def test_aligned_depth_is_clipped_to_the_range():
    pred = np.array([[0.0, 1.0, 2.0, 10.0]])
    target = np.array([[1.0, 2.0, 3.0, 4.0]])
    scale, shift = metrics.align_scale_shift(pred, target, target > 0)
    aligned = np.clip(scale * pred + shift, 2.0, 3.5)
    got = metrics.depth_metrics(pred, target, target > 0, min_depth=2.0, max_depth=3.5)
    assert got.abs_rel == pytest.approx(np.mean(np.abs(aligned - target) / target))


def test_disparity_space_is_exact_for_an_affine_disparity(rng):
    target = rng.random((9, 9)) * 5 + 1
    pred = 3 / target - 0.2
    valid = np.ones(target.shape, bool)
    assert metrics.depth_metrics(pred, target, valid, space="disparity").abs_rel < 1e-12
    assert metrics.depth_metrics(pred, target, valid).abs_rel > 0.05


def test_motorcycle_disparity_becomes_metric_depth():
    disparity = np.array([[10.0, 0.0, np.inf, np.nan, 50.0]])
    depth, valid = metrics.depth_from_disparity(
        disparity, focal_px=994.978, baseline_m=0.193001, offset_px=31.086
    )
    assert valid.tolist() == [[True, False, False, False, True]]
    assert depth[0, 0] == pytest.approx(994.978 * 0.193001 / 41.086)
    assert depth[0, 1:4].tolist() == [0, 0, 0]
    pred = np.where(valid, 0.1 * depth + 0.3, 0)
    assert metrics.depth_metrics(pred, depth, valid).abs_rel < 1e-12


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-50, 50), seed=st.integers(0, 1000))
def test_depth_metrics_ignore_an_affine_change_of_the_prediction(scale, shift, seed):
    rng = np.random.default_rng(seed)
    pred, target = rng.random((8, 8)), rng.random((8, 8)) + 0.5
    valid = np.ones((8, 8), bool)
    plain = metrics.depth_metrics(pred, target, valid)
    changed = metrics.depth_metrics(scale * pred + shift, target, valid)
    assert changed.abs_rel == pytest.approx(plain.abs_rel, rel=1e-6)
    assert changed.silog == pytest.approx(plain.silog, rel=1e-6)


def test_mean_over_images_weighs_images_equally():
    target = np.array([[1.0, 2.0]])
    exact = metrics.depth_metrics(target, target, target > 0)
    flat = metrics.depth_metrics(np.ones((1, 2)), target, target > 0)
    got = metrics.mean_depth_metrics([exact, flat])
    assert got.abs_rel == pytest.approx((0 + flat.abs_rel) / 2)
    assert got.num_valid == 4
    with pytest.raises(ValueError, match="no images"):
        metrics.mean_depth_metrics([])


def test_angles_by_hand():
    up, toward = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    diagonal, nothing = [0.0, 3.0, 3.0], [0.0, 0.0, 0.0]
    pred = np.array([[toward, diagonal, up, nothing, up]])
    target = np.array([[toward, toward, [0.0, -1.0, 0.0], toward, nothing]])
    got = metrics.angular_error_deg(pred, target, np.ones((1, 5), bool))
    assert got[0, :4] == pytest.approx([0, 45, 180, 90])
    assert np.isnan(got[0, 4])


def test_small_angles_keep_their_precision():
    angle = 1e-7
    pred = np.array([[[math.sin(angle), 0.0, math.cos(angle)]]])
    target = np.array([[[0.0, 0.0, 1.0]]])
    got = metrics.angular_error_deg(pred, target, np.ones((1, 1), bool))
    assert got[0, 0] == pytest.approx(math.degrees(angle), rel=1e-9)


def test_normals_are_pooled_over_pixels_not_images(rng):
    toward = np.array([0.0, 0.0, 1.0])
    pool = metrics.NormalsAccumulator()
    angles = [np.full((1, 9), 0.0), np.full((1, 1), 20.0)]
    for angle in np.radians(angles[0]), np.radians(angles[1]):
        pred = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], axis=-1)
        pool.add(pred, np.broadcast_to(toward, pred.shape), np.ones(angle.shape, bool))
    got = pool.result()
    assert got.mean_deg == pytest.approx(2.0, abs=1e-5)
    assert got.median_deg == 0
    assert got.rmse_deg == pytest.approx(math.sqrt(400 / 10), abs=1e-5)
    assert (got.below_5, got.below_7_5, got.below_11_25) == (0.9, 0.9, 0.9)
    assert (got.below_22_5, got.below_30, got.num_valid) == (1.0, 1.0, 10)
    with pytest.raises(ValueError, match="no valid pixel"):
        metrics.NormalsAccumulator().result()


def test_parity_helpers(rng):
    reference = rng.random((16, 16))
    assert metrics.aligned_abs_rel(0.5 * reference + 0.1, reference) < 1e-12
    assert metrics.share_within(reference, reference) == 1
    candidate = reference.copy()
    candidate[0, 0] += 0.5
    assert metrics.share_within(candidate, reference, 0.02) == 255 / 256
    assert metrics.aligned_abs_rel(candidate, reference) > 1e-4
    assert metrics.psnr(reference, reference) == math.inf
    assert metrics.psnr(reference + 0.1, reference) == pytest.approx(20)
    assert metrics.psnr(reference + 0.1, reference, peak=10) == pytest.approx(40)


def test_relative_parity_does_not_explode_at_the_arbitrary_zero():
    reference = np.array([[0.0, 1.0]])
    candidate = np.array([[0.0005, 1.0]])
    assert metrics.share_within(candidate, reference, 0.02) == 1
    assert metrics.share_within(candidate, reference, 0.009) == 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: metrics.align_scale_shift(a, b, np.ones(a.shape, bool)),
        lambda a, b: metrics.depth_metrics(a, b, np.ones(a.shape, bool)),
        lambda a, b: metrics.align_scale_shift(a, a, np.ones(b.shape, bool)),
        lambda a, b: metrics.angular_error_deg(
            np.ones((*a.shape, 3)), np.ones((*b.shape, 3)), np.ones(a.shape, bool)
        ),
        metrics.aligned_abs_rel,
        metrics.share_within,
        metrics.psnr,
    ],
)
def test_wrong_shapes_name_both(call):
    with pytest.raises(ValueError, match=r"\(2, 3.*\).*\(3, 2.*\)|\(3, 2.*\).*\(2, 3.*\)"):
        call(np.ones((2, 3)), np.ones((3, 2)))


def test_values_that_cannot_be_measured_are_errors():
    one, valid = np.ones((1, 2)), np.ones((1, 2), bool)
    nan = np.array([[1.0, np.nan]])
    with pytest.raises(ValueError, match="prediction holds 1 NaN"):
        metrics.depth_metrics(nan, one, valid)
    with pytest.raises(ValueError, match="no valid pixel"):
        metrics.depth_metrics(one, one, ~valid)
    with pytest.raises(ValueError, match="positive"):
        metrics.depth_metrics(one, -one, valid)
    with pytest.raises(ValueError, match="'log'"):
        metrics.depth_metrics(one, one, valid, space="log")
    # A NaN outside the mask is nobody's concern.
    assert metrics.align_scale_shift(nan, one, ~np.isnan(nan)) == (0.0, 1.0)
