"""Spaces of alignment and the pixels scale and shift are fitted on, as properties and against peers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy.train.accuracy import distance_metrics
from e2e_deploy.train.protocol.catalogue import SETS
from e2e_deploy.train.protocol.measuring.measure import fitted_pixels

FREE = (1e-6, np.inf)
NYUV2 = SETS["depth"]["nyuv2"].range_m


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.01, 100) | st.floats(-100, -0.01),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_affine_map_of_a_prediction_changes_nothing(scale, shift, seed):
    draw = np.random.default_rng(seed)
    truth, valid = draw.uniform(0.5, 9, (12, 16)), draw.random((12, 16)) < 0.7
    valid[0, :4] = True
    prediction = draw.random((12, 16))
    for kind in ("depth", "disparity", "sqrt-disparity"):
        one = distance_metrics(prediction, truth, valid, NYUV2, kind)
        other = distance_metrics(scale * prediction + shift, truth, valid, NYUV2, kind)
        assert other.abs_rel == pytest.approx(one.abs_rel, rel=1e-7, abs=1e-9)
        assert other.negative_scale == (one.negative_scale if scale > 0 else 1 - one.negative_scale)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_kind_is_exact_in_its_own_space_alone(seed):
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0.5, 9, (12, 16))
    valid = np.ones_like(truth, bool)
    shown = {
        "depth": 0.1 * truth + 0.2,
        "disparity": 0.3 / truth + 0.1,
        "sqrt-disparity": 0.4 * truth**-0.5 + 0.1,
    }
    for kind, prediction in shown.items():
        for read_as in shown:
            error = distance_metrics(prediction, truth, valid, FREE, read_as).abs_rel
            assert (error < 1e-9) == (read_as == kind)


def test_disparity_is_raised_to_a_thousandth_before_it_is_inverted():
    # 1 / depth is 1 and 0.01; the prediction is -0.49 off at the far half of the far pixels and +0.49 at the others.
    truth = np.array([[1.0, 1.0, 100.0, 100.0]])
    prediction = np.array([[1.0, 1.0, 0.01 - 0.4, 0.01 + 0.4]])
    metrics = distance_metrics(prediction, truth, truth > 0, FREE, "disparity")
    scale, shift = np.polyfit(prediction.ravel(), 1 / truth.ravel(), 1)
    aligned = 1 / np.maximum(scale * prediction + shift, 1e-3)
    assert aligned.max() == 1000
    assert metrics.abs_rel == pytest.approx(np.mean(np.abs(aligned - truth) / truth), rel=1e-9)


def test_a_square_root_is_fitted_before_it_is_squared():
    """As evaluate.py of DepthMaster's repository does it with least_square_sqrt_disp."""
    truth = np.array([[1.0, 4.0, 25.0, 400.0]])
    prediction = np.array([[0.9, 0.45, 0.3, -0.2]])
    metrics = distance_metrics(prediction, truth, truth > 0, FREE, "sqrt-disparity")
    scale, shift = np.polyfit(prediction.ravel(), truth.ravel() ** -0.5, 1)
    aligned = 1 / np.maximum((scale * prediction + shift) ** 2, 1e-3)
    assert metrics.abs_rel == pytest.approx(np.mean(np.abs(aligned - truth) / truth), rel=1e-9)


@pytest.mark.parametrize(("height", "width"), [(4032, 6048), (6, 2048), (3000, 1500), (10, 1025)])
def test_the_sample_is_what_torchs_upsampling_leaves_of_each_row(height, width):
    mask = fitted_pixels((height, width), 1024)
    factor = 1024 / max(height, width)
    numbers = torch.arange(width, dtype=torch.float32)[None, None]
    kept = torch.nn.Upsample(scale_factor=factor, mode="nearest")(numbers)[0, 0]
    assert (mask == mask[0]).all()
    assert np.flatnonzero(mask[0]).tolist() == sorted(set(kept.int().tolist()))


def test_a_small_picture_is_fitted_on_every_pixel():
    assert fitted_pixels((1024, 768), 1024) is None
    assert fitted_pixels((4032, 6048), None) is None


def test_least_squares_is_numpys():
    draw = np.random.default_rng(0)
    truth, prediction = draw.uniform(1, 8, (30, 40)), draw.random((30, 40))
    valid = draw.random((30, 40)) < 0.5
    a = np.stack([prediction[valid], np.ones(valid.sum())], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(a, truth[valid], rcond=None)
    aligned = np.clip(scale * prediction + shift, 1e-3, 10)[valid]
    expected = np.mean(np.abs(aligned - truth[valid]) / truth[valid])
    found = distance_metrics(prediction, truth, valid, NYUV2, "depth").abs_rel
    assert found == pytest.approx(expected, rel=1e-12)
