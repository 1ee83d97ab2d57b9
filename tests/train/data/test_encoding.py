import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from e2e_deploy.metrics import angular_error_deg
from e2e_deploy.train.data.encoding import (
    decode_depth,
    decode_normals,
    encode_depth,
    encode_normals,
    unit_or_zero,
)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-10, 1000, width=32)))
def test_depth_is_kept_to_half_a_unit_or_becomes_invalid_but_never_wraps(depth_m):
    got = decode_depth(encode_depth(depth_m, 0.001), 0.001)
    inside = (depth_m > 0.001) & (depth_m < 65.534)
    assert np.allclose(got[inside], depth_m[inside], atol=0.000502)
    assert (got[(depth_m < 0.0004) | (depth_m > 65.535)] == 0).all()


def test_depth_beyond_the_range_saturates():
    depth_m = np.array([[65.536 + 1.0, 70.0, np.inf, np.nan, -3.0]], np.float32)
    assert encode_depth(depth_m, 0.001).tolist() == [[65535, 65535, 65535, 0, 0]]


def test_floating_depth_keeps_its_values_and_drops_what_is_none():
    stored = np.array([[2.5, 0, -1, np.nan, np.inf, 70000]], np.float32)
    assert decode_depth(stored, 2.0).tolist() == [[5, 0, 0, 0, 0, 140000]]


def random_normals(seed=0, size=(40, 50)):
    vectors = np.random.default_rng(seed).standard_normal((*size, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_normals_survive_eight_bits():
    normals = random_normals()
    normals[0, 0] = 0
    got = decode_normals(encode_normals(normals))
    assert got[0, 0].tolist() == [0, 0, 0]
    error = angular_error_deg(got, normals, np.ones((40, 50), bool))
    assert np.nanmean(error) < 0.3
    assert np.linalg.norm(got, axis=-1)[1:] == pytest.approx(1, abs=1e-6)


def test_sixteen_bits_and_opencv_axes():
    normals = random_normals()
    optical = normals * [1, -1, -1]
    stored = np.rint((optical + 1) * 32767.5).astype(np.uint16)
    assert np.abs(decode_normals(stored, "right-down-front") - normals).max() < 1e-4
    got = decode_normals(optical.astype(np.float32), "right-down-front")
    assert np.abs(got - normals).max() < 1e-6


def test_a_normal_that_is_no_number_is_invalid():
    normals = random_normals(size=(1, 3))
    normals[0, 1, 2] = np.nan
    assert decode_normals(normals)[0, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("axes", ["right-up-back", "right-down-front"])
def test_only_the_zero_vector_is_unknown(axes):
    unit = random_normals(size=(1, 4))
    lengths = np.array([1e-30, 0.3, 7.0, 1e18], np.float32)[:, None]
    whole, scaled = decode_normals(unit, axes), decode_normals(unit * lengths, axes)
    assert np.abs(whole - scaled).max() < 1e-6
    assert not decode_normals(np.zeros((1, 1, 3), np.float32), axes).any()


@pytest.mark.parametrize(("dtype", "grey"), [(np.uint8, 127), (np.uint16, 32767)])
def test_mid_grey_is_the_zero_vector(dtype, grey):
    stored = np.array(
        [[[grey] * 3, [grey + 1] * 3, [grey, grey + 1, grey], [grey + 2, grey, grey]]]
    )
    got = decode_normals(stored.astype(dtype))
    assert got.any(axis=-1).tolist() == [[False, False, False, True]]


def test_blends_with_nothing_become_zero():
    got = unit_or_zero(np.array([[[0.0, 0.0, 0.4], [0.0, 0.0, 0.6]]], np.float32), 0.5)
    assert got.tolist() == [[[0, 0, 0], [0, 0, 1]]]
