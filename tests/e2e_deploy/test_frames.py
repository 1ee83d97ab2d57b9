import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import (
    E2E_FT_SIZING,
    PILLOW_SIZING,
    bicubic_matrix,
    check_frame,
    parse_size,
    plan_frame,
    resize_matrix,
)

sides = st.integers(1, 90)
frame_sides = st.integers(16, 4000)


@given(n_in=sides, n_out=sides, antialias=st.booleans())
@settings(deadline=None)
def test_resize_matrix_equals_torch_bilinear(n_in, n_out, antialias):
    x = torch.from_numpy(np.random.default_rng(n_in).random((1, 1, n_in, 3)))
    expected = functional.interpolate(x, (n_out, 3), mode="bilinear", antialias=antialias)
    matrix = resize_matrix(n_in, n_out, antialias=antialias)
    got = matrix.astype(np.float64) @ x[0, 0].numpy()
    np.testing.assert_allclose(got, expected[0, 0].numpy(), atol=3e-7)


@given(n_in=sides, n_out=sides)
@settings(deadline=None)
def test_bicubic_matrix_equals_torch_antialiased(n_in, n_out):
    x = torch.from_numpy(np.random.default_rng(n_in).random((1, 1, n_in, 3)))
    expected = functional.interpolate(x, (n_out, 3), mode="bicubic", antialias=True)
    got = bicubic_matrix(n_in, n_out).astype(np.float64) @ x[0, 0].numpy()
    np.testing.assert_allclose(got, expected[0, 0].numpy(), atol=3e-7)


@pytest.mark.parametrize("frame_hw", [(48, 64), (25, 90)])
def test_pillow_sizing_is_pillows_resize_there_and_back(frame_hw):
    plan = plan_frame(frame_hw, 40, 1, sizing=PILLOW_SIZING)
    there, back = plan.resized_hw, plan.frame_hw
    image = np.random.default_rng(0).random(frame_hw, dtype=np.float32)
    small = Image.fromarray(image).resize(there[::-1])
    got = plan.to_network(0) @ image @ plan.to_network(1).T
    np.testing.assert_allclose(got, np.asarray(small), atol=2e-6)
    again = plan.to_frame(0) @ got @ plan.to_frame(1).T
    np.testing.assert_allclose(again, np.asarray(small.resize(back[::-1])), atol=2e-6)


@given(n_in=sides, n_out=sides)
def test_rows_of_a_resize_matrix_are_weights(n_in, n_out):
    matrix = resize_matrix(n_in, n_out)
    assert matrix.shape == (n_out, n_in)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_an_unchanged_side_is_the_identity():
    assert np.array_equal(resize_matrix(7, 7), np.eye(7, dtype=np.float32))


@given(
    height=frame_sides,
    width=frame_sides,
    resolution=st.integers(64, 2048),
    stride=st.sampled_from([8, 32, 64]),
)
def test_a_plan_keeps_the_aspect_and_pads_to_the_stride(height, width, resolution, stride):
    if max(height, width) > resolution * min(height, width):
        return  # too narrow, tested below
    plan = plan_frame((height, width), resolution, stride)
    assert max(plan.resized_hw) == resolution
    for side, resized, padded in zip((height, width), plan.resized_hw, plan.padded_hw, strict=True):
        assert 0 <= side * resolution / max(height, width) - resized < 1
        assert padded % stride == 0
        assert 0 <= padded - resized < stride


def test_resolution_zero_keeps_the_frames_own_size():
    plan = plan_frame((100, 130), 0, 64)
    assert (plan.resized_hw, plan.padded_hw, plan.resizes) == ((100, 130), (128, 192), False)
    assert (plan.result_hw, plan.kept_hw, plan.resizes_back) == ((128, 192), (100, 130), False)


@given(height=frame_sides, width=frame_sides, resolution=st.sampled_from([0, 500, 768]))
def test_without_padding_the_vae_rounds_down_and_the_result_is_stretched(height, width, resolution):
    if max(height, width) > 40 * min(height, width):
        return
    plan = plan_frame((height, width), resolution, 8, sizing=E2E_FT_SIZING)
    # as E2E-FT's resize_max_res computes it
    scale = min(resolution / width, resolution / height) if resolution else 1
    assert plan.padded_hw == plan.resized_hw == (int(height * scale), int(width * scale))
    assert plan.result_hw == plan.kept_hw == tuple(side // 8 * 8 for side in plan.padded_hw)
    assert plan.to_network(0).shape == (plan.padded_hw[0], height)
    assert plan.to_frame(1).shape == (width, plan.result_hw[1])


def test_floats_may_lose_a_pixel():
    assert 47 * (768 / 47) < 768
    assert plan_frame((47, 31), 768, 8, sizing=E2E_FT_SIZING).resized_hw == (767, 506)
    assert plan_frame((47, 31), 768, 8).resized_hw == (768, 506)


def test_padding_to_another_multiple_wins():
    assert plan_frame((480, 640), 0, 8).padded_hw == (480, 640)
    for sizing in ({}, {"sizing": E2E_FT_SIZING}):
        assert plan_frame((480, 640), 0, 8, pad=64, **sizing).padded_hw == (512, 640)
    with pytest.raises(UsageError, match="multiples of 12; give a multiple of 8"):
        plan_frame((480, 640), 0, 8, pad=12)


def test_padding_repeats_the_last_row_and_is_cropped_again(rng):
    plan = plan_frame((30, 20), 15, 8)
    x = rng.random((30, 20))
    padded = plan.to_network(0) @ x @ plan.to_network(1).T
    assert padded.shape == plan.padded_hw == (16, 16)
    inner = resize_matrix(30, 15) @ x @ resize_matrix(20, 10).T
    np.testing.assert_allclose(padded, np.pad(inner, ((0, 1), (0, 6)), mode="edge"), atol=1e-6)
    # What the network puts into the padding must not reach the frame.
    result, changed = padded.copy(), padded.copy()
    changed[15:], changed[:, 10:] = 99, 99
    for array in (result, changed):
        assert (plan.to_frame(0) @ array @ plan.to_frame(1).T).shape == (30, 20)
    np.testing.assert_array_equal(
        plan.to_frame(0) @ result @ plan.to_frame(1).T,
        plan.to_frame(0) @ changed @ plan.to_frame(1).T,
    )


@pytest.mark.parametrize(
    ("frame_hw", "resolution", "word"),
    [
        ((1, 1), 768, "at least 16 px"),
        ((15, 400), 768, "at least 16 px"),
        ((9000, 12000), 768, "108 Mpx"),
        ((480, 640), -1, "must be 0"),
        ((480, 640), 10**20, "at most"),
        ((480, 640), 60_000, "enlarged to 45000x60000; the limit is 67 Mpx"),
        ((16, 2000), 100, "16x2000 .height x width. is too narrow"),
    ],
)
def test_sizes_no_engine_is_built_for(frame_hw, resolution, word):
    with pytest.raises(UsageError, match=word):
        plan_frame(frame_hw, resolution, 64)


def test_parse_size():
    assert parse_size("480x640") == parse_size("480X640") == (480, 640)


@pytest.mark.parametrize(
    "text", ["", "480", "480x", "x", "0x10", "-1x10", "1.5x2", "²x³", "1x2x3", "9" * 5000 + "x1"]
)
def test_parse_size_refuses(text):
    with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        [[1, 2, 3]],
    ],
)
def test_a_frame_is_uint8_rgb(frame):
    with pytest.raises(UsageError, match=r"uint8 RGB \[H, W, 3\]; given"):
        check_frame(frame)
