"""Rounding operator by operator: where it is asked for, and what it does there."""

import pytest
import torch
from torch import nn

from benchmarks.accuracy.half_precision import LAST, Rounded, in_part, noisy


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(8, 8).requires_grad_(False), torch.randn(3, 8)


def half(x):
    return x.half().float()


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("results", [True, False])
def test_weights_and_results_are_rounded_where_asked(layer, weights, results):
    linear, x = layer
    rounded = Rounded(torch.float16, in_part("unet"), weights=weights, results=results)
    rounded.path.append("unet.proj")
    with rounded:
        made = linear(x)
    kept = half if weights else lambda t: t
    exact = torch.addmm(kept(linear.bias), x, kept(linear.weight).T)
    assert torch.equal(made, half(exact) if results else exact)


@pytest.mark.parametrize("path", ["", "vae.encoder.conv_in", LAST])
def test_other_parts_stay_as_they_are(layer, path):
    linear, x = layer
    rounded = Rounded(torch.bfloat16, in_part("unet"))
    rounded.path.append(path)
    with rounded:
        made = linear(x)
    assert torch.equal(made, linear(x))


def test_the_last_convolution_is_in_no_part():
    parts = ("everything", "vae.decoder", "all but the residual stream")
    assert not any(in_part(part)(LAST, torch.ops.aten.convolution.default) for part in parts)


def test_the_residual_stream_is_what_blocks_add_up():
    here = in_part("all but the residual stream")
    block, add = "unet.mid_block.resnets.0", torch.ops.aten.add.Tensor
    assert not here(block, add)
    assert not here(f"{block}.conv2", torch.ops.aten.convolution.default)
    assert here(f"{block}.conv1", torch.ops.aten.convolution.default)
    assert here(f"{block}.nonlinearity", torch.ops.aten.silu.default)


def test_noise_is_less_than_a_rounding_to_grey_levels():
    frame = torch.randint(0, 256, (1, 8, 9, 3), dtype=torch.uint8)
    added = noisy(frame) - frame.float()
    assert added.abs().max() <= 0.5
    assert 0.2 < added.std() < 0.4
    assert torch.equal(noisy(frame), noisy(frame))
