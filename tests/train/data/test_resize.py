from dataclasses import replace

import numpy as np
import pytest

from e2e_deploy.train.data.resize import crop, fit, resize
from e2e_deploy.train.data.sample import Sample


def step_sample(height=40, width=60):
    """Left half near, right half far; normals differ; the top rows are invalid."""
    right = np.arange(width) >= width // 2
    depth = np.broadcast_to(np.where(right, 9.0, 1.0), (height, width)).astype(np.float32)
    normals = np.where(right[:, None], [0.6, 0.0, 0.8], [-0.6, 0.0, 0.8])
    normals = np.broadcast_to(normals, (height, width, 3)).astype(np.float32).copy()
    normals[:8] = 0
    valid = np.ones((height, width), bool)
    valid[:8] = False
    rgb = np.broadcast_to(np.where(right, 200, 100)[:, None], (height, width, 3)).astype(np.uint8)
    return Sample(rgb=rgb, depth_m=depth, normals=normals, valid=valid, path="step")


@pytest.mark.parametrize("size", [(20, 30), (25, 41), (80, 120)])
def test_resizing_invents_no_depth_and_keeps_normals_unit(size):
    got = resize(step_sample(), *size)
    assert got.rgb.shape == (*size, 3)
    assert set(np.unique(got.depth_m)) == {1.0, 9.0}
    length = np.linalg.norm(got.normals, axis=-1)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    assert np.array_equal(length > 0, got.valid)
    assert got.valid.mean() == pytest.approx(0.8, abs=0.03)
    assert got.rgb.dtype == np.uint8
    assert got.depth_m.dtype == got.normals.dtype == np.float32


def test_halving_averages_colour_exactly():
    rng = np.random.default_rng(0)
    sample = step_sample()
    rgb = rng.integers(0, 256, sample.rgb.shape, dtype=np.uint8)
    got = resize(replace(sample, rgb=rgb, normals=None), 20, 30)
    mean = rgb.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(got.rgb - mean).max() <= 0.5
    assert got.normals is None


def test_fit_keeps_the_aspect_and_cuts_the_centre():
    got = fit(step_sample(), 40, 20)
    assert np.array_equal(got.depth_m, step_sample().depth_m[:, 20:40])
    got = fit(step_sample(), 16, 30)
    assert got.rgb.shape == (16, 30, 3)
    assert (got.depth_m[:, :15] == 1).all()
    assert (got.depth_m[:, 15:] == 9).all()


def test_fit_at_the_same_size_changes_nothing():
    sample = step_sample()
    got = fit(sample, 40, 60)
    assert np.array_equal(got.normals, sample.normals)
    assert np.array_equal(got.rgb, sample.rgb)


def test_crop_cuts_every_array_alike():
    sample = step_sample()
    got = crop(sample, 6, 28, 4, 5)
    assert np.array_equal(got.rgb, sample.rgb[6:10, 28:33])
    assert np.array_equal(got.depth_m, sample.depth_m[6:10, 28:33])
    assert np.array_equal(got.normals, sample.normals[6:10, 28:33])
    assert np.array_equal(got.valid, sample.valid[6:10, 28:33])
