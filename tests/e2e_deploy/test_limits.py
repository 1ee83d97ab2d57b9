import copy
from dataclasses import replace

import numpy as np
import pytest

from e2e_deploy.limits import BACKENDS, LIMITS, Limit, measure_parity

FP16, BF16 = LIMITS["torch", "fp16"], LIMITS["torch", "bf16"]


@pytest.fixture
def depth(rng):
    return rng.uniform(0.1, 1, (20, 30)).astype(np.float32)


@pytest.fixture
def normals(rng):
    vectors = rng.standard_normal((20, 30, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def test_every_backend_and_precision_has_the_limits_of_the_design():
    floats = {(b, p) for b in BACKENDS for p in ("fp32", "fp16", "bf16")}
    assert set(LIMITS) == floats | {("onnxruntime", "int8"), ("openvino", "int8")}
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


def test_what_no_angle_could_be_measured_of_is_outside(normals):
    """Of a reference without directions there is a mean of nothing."""
    parity = replace(measure_parity("normals", normals, normals), mean_angle_deg=float("nan"))
    assert parity.breaks(FP16) == ["mean angle nan is not below 0.5"]


def test_shapes_must_agree(depth):
    with pytest.raises(ValueError, match="shape"):
        measure_parity("depth", depth[:-1], depth)


@pytest.fixture(scope="module")
def trained():
    """rgb -> depth [H, W] of the trained e2e-tiny after a change of it, its depth unchanged, and a real picture."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from e2e_deploy.assets.pictures import reference_frames
    from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
    from e2e_deploy.model.loading import load_model

    rgb_13HW = torch.from_numpy(reference_frames((64, 96), 1)).permute(0, 3, 1, 2) / 127.5 - 1

    model = load_model(open_checkpoint(bundled_checkpoint("depth")))

    def depth_of(change=lambda model: None, rgb=rgb_13HW):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            change(changed)
            return changed(rgb)[0, 0].numpy()

    return depth_of, depth_of(), rgb_13HW


def half_rounded(model):
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())


def scaled(name, factor):
    return lambda model: model.get_submodule(name).weight.mul_(factor)


WRONG_LAYERS = {
    "a residual branch is missing": scaled("unet.up_blocks.0.resnets.0.conv2", 0.0),
    "a decoder's branch is missing": scaled("vae.decoder.up_blocks.0.resnets.0.conv2", 0.0),
    "a norm's weight is a tenth too large": scaled("vae.decoder.conv_norm_out", 1.1),
}


def test_half_precision_limits_let_rounded_weights_pass(trained):
    depth_of, reference, _ = trained
    assert measure_parity("depth", depth_of(half_rounded), reference).breaks(FP16) == []


@pytest.mark.parametrize("wrong", WRONG_LAYERS)
def test_half_precision_limits_catch_a_wrong_layer(trained, wrong):
    depth_of, reference, _ = trained
    assert measure_parity("depth", depth_of(WRONG_LAYERS[wrong]), reference).breaks(FP16)


def test_half_precision_limits_catch_swapped_channels(trained):
    depth_of, reference, rgb_13HW = trained
    swapped = depth_of(rgb=rgb_13HW.flip(1))
    for limit in (FP16, BF16):
        assert measure_parity("depth", swapped, reference).breaks(limit)


def blurred(depth):
    rows = (np.roll(depth, 1, 0) + depth + np.roll(depth, -1, 0)) / 3
    return (np.roll(rows, 1, 1) + rows + np.roll(rows, -1, 1)) / 3


def scaled_region(depth):
    wrong = depth.copy()
    wrong[5:12, 20:40] *= 1.03  # 2 % of the pixels
    return wrong


@pytest.mark.parametrize("mutate", [lambda d: d + 0.02, blurred, scaled_region])
def test_half_precision_limits_catch_what_alignment_or_a_mean_would_hide(trained, mutate):
    reference = trained[1]
    wrong = np.clip(mutate(reference), 0, 1).astype(np.float32)
    for limit in (FP16, BF16):
        assert measure_parity("depth", wrong, reference).breaks(limit)
