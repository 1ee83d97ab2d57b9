"""Rounding to 8 bits: what it keeps, by how much it is off, and that a network is left as it was."""

import pytest
import torch
from torch import nn

from benchmarks.accuracy.eight_bits import (
    LARGEST,
    WEIGHTS,
    fp8,
    int8_weight,
    rounded,
    rounded_layers,
    uint8_input,
)


def test_e4m3_keeps_its_own_numbers_and_three_bits_of_others():
    own = torch.tensor([0.0, -448.0, 1.125, 2.0**-9])
    assert torch.equal(fp8(own, LARGEST), own)
    x = torch.logspace(-1, 2, 500)
    off = (fp8(x, 100.0) - x).abs() / x
    assert 0.03 < off.max() <= 2.0**-4 + 1e-6
    assert fp8(torch.tensor([200.0]), 100.0) == pytest.approx(100)  # beyond the range is its end


def test_int8_is_off_by_half_a_step_of_the_channel():
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([0.01, 1, 10, 100]).view(4, 1, 1, 1)
    off = (int8_weight(weight) - weight).abs().flatten(1).amax(1)
    assert (off <= weight.abs().flatten(1).amax(1) / 254 * 1.0001).all()
    x = torch.linspace(-1, 3, 999)
    assert (uint8_input(x, -1, 3) - x).abs().max() <= 4 / 255 / 2 * 1.01
    assert uint8_input(torch.zeros(1), -1, 3) == 0


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_network_is_rounded_where_an_export_does_it_and_is_whole_again(kind):
    torch.manual_seed(0)
    layers = {"conv_in": nn.Conv2d(3, 4, 3), "wide": nn.Conv2d(4, 4, 3)}
    body = nn.Sequential()
    for name, layer in layers.items():
        body.add_module(name, layer.requires_grad_(False))
    x = torch.rand(1, 3, 9, 9)
    exact = body(x)
    found = rounded_layers(body)
    assert list(found) == ["wide"]  # the first convolution stays
    ranges = {"wide": (float(exact.min()) - 9, float(exact.max()) + 9)}
    with rounded(found, ranges, kind, inputs=False):
        weights = body(x)
    with rounded(found, ranges, kind, inputs=True):
        both = body(x)
    assert torch.equal(body(x), exact)
    assert 0 < (weights - exact).abs().max() < (both - exact).abs().max() < 1
