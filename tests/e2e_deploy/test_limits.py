from dataclasses import replace

import numpy as np
import pytest

from e2e_deploy.limits import BACKENDS, LIMITS, Limit, measure_parity


@pytest.fixture
def depth(rng):
    return rng.uniform(0.1, 1, (20, 30)).astype(np.float32)


@pytest.fixture
def normals(rng):
    vectors = rng.standard_normal((20, 30, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def test_every_backend_and_precision_has_the_limits_of_the_design():
    floats = {(b, p) for b in BACKENDS for p in ("fp32", "fp16", "bf16")}
    assert set(LIMITS) == floats | {("onnxruntime", "int8")}
    assert LIMITS["onnxruntime", "int8"] == LIMITS["onnxruntime", "fp16"]
    for backend in BACKENDS:
        assert LIMITS[backend, "fp32"].relative == 1e-4
        fp16, bf16 = LIMITS[backend, "fp16"], LIMITS[backend, "bf16"]
        assert (fp16.abs_rel, fp16.share_within_2pct, fp16.mean_angle_deg) == (0.005, 0.999, 0.5)
        assert (bf16.abs_rel, bf16.share_within_2pct, bf16.mean_angle_deg) == (0.02, 0.996, 2.0)


@pytest.mark.parametrize("limit", LIMITS.values())
def test_the_reference_itself_is_inside_every_limit(depth, normals, limit):
    for task, result in (("depth", depth), ("normals", normals)):
        parity = measure_parity(task, result.copy(), result)
        assert parity.breaks(limit) == []
        assert (parity.max_abs, parity.relative) == (0, 0)


def test_fp32_judges_the_relative_error_in_the_euclidean_norm(depth):
    wrong = depth.copy()
    wrong[3, 4] += 0.03
    parity = measure_parity("depth", wrong, depth)
    assert parity.max_abs == pytest.approx(0.03, rel=1e-5)
    assert parity.relative == pytest.approx(0.03 / np.sqrt(np.sum(depth**2)), rel=1e-4)
    (sentence,) = parity.breaks(LIMITS["onnxruntime", "fp32"])
    assert "relative error" in sentence
    assert "0.0001" in sentence
    assert parity.breaks(LIMITS["onnxruntime", "fp16"]) == [
        "only 99.83% of pixels are within 2 %, not 99.9%"
    ]


def test_fp16_judges_affine_aligned_depth(depth, rng):
    shifted = (0.5 * depth + 0.2).astype(np.float32)
    assert measure_parity("depth", shifted, depth).abs_rel == pytest.approx(0, abs=1e-6)
    noisy = (depth * rng.uniform(0.97, 1.03, depth.shape)).astype(np.float32)
    failures = measure_parity("depth", noisy, depth).breaks(LIMITS["tensorrt", "fp16"])
    assert len(failures) == 2
    assert "AbsRel" in failures[0]
    assert "of pixels are within 2 %" in failures[1]


def test_fp16_judges_normals_by_angle(normals):
    angle = np.radians(1.0)
    turned = normals @ np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    parity = measure_parity("normals", turned.astype(np.float32), normals)
    assert 0.5 < parity.mean_angle_deg < 1
    assert "mean angle" in parity.breaks(LIMITS["tensorrt", "fp16"])[0]
    assert parity.breaks(LIMITS["tensorrt", "bf16"]) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_number_breaks_every_limit(depth, value):
    bad = depth.copy()
    bad[0, 0] = value
    parity = measure_parity("depth", bad, depth)
    assert parity.breaks(Limit()) == ["the result holds NaN or infinity"]


def test_a_limit_is_a_bound_that_is_not_reached(depth):
    parity = replace(measure_parity("depth", depth, depth), relative=1e-4)
    assert parity.breaks(Limit(relative=1e-4))


def test_shapes_must_agree(depth):
    with pytest.raises(ValueError, match="shape"):
        measure_parity("depth", depth[:-1], depth)
