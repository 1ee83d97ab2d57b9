"""The Fourier block's transforms beside torch.fft, and its angles beside torch.angle."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy.export.graph.precision import Fp32Island, to_precision
from e2e_deploy.model.networks.fourier import (
    FourierBlock,
    FourierUNet,
    from_spectrum,
    spectrum,
    to_polar,
)
from tests.export.random_models import UNET, random_model, randomise

sides = st.integers(1, 16)


def numbers(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 2**31))
def test_the_transforms_are_torchs(height, width, seed):
    x = numbers(seed, 2, 3, height, width)
    expected = torch.fft.rfft2(x, norm="ortho")
    real, imaginary = spectrum(x)
    torch.testing.assert_close(real, expected.real, atol=1e-12, rtol=0)
    torch.testing.assert_close(imaginary, expected.imag, atol=1e-12, rtol=0)
    torch.testing.assert_close(from_spectrum(real, imaginary, width), x, atol=1e-12, rtol=0)
    # also of what is no real map's spectrum
    half = torch.complex(*numbers(seed + 1, 2, 2, 3, height, width // 2 + 1))
    back = torch.fft.irfft2(half, s=(height, width), norm="ortho")
    found = from_spectrum(half.real, half.imag, width)
    torch.testing.assert_close(found, back, atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 2**31))
def test_frequencies_that_are_their_own_opposite_are_exactly_real(height, width, seed):
    """There the sign of a rounded zero would turn an angle of pi into one of -pi."""
    x = numbers(seed, 1, 4, height, width, dtype=torch.float32)
    real, imaginary = spectrum(x)
    _, angle = to_polar(real, imaginary)
    rows = [0] + ([height // 2] if height % 2 == 0 else [])
    columns = [0] + ([width // 2] if width % 2 == 0 else [])
    for row in rows:
        for column in columns:
            assert (imaginary[..., row, column] == 0).all()
            is_negative = real[..., row, column] < 0
            np.testing.assert_array_equal(
                angle[..., row, column], torch.where(is_negative, math.pi, 0.0)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_are_torchs(dtype):
    real, imaginary = numbers(0, 2, 5000, dtype=dtype)
    real[:5] = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0])
    imaginary[:5] = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])
    real[5:9], imaginary[5:9] = -3.0, torch.tensor([1e-6, -1e-6, 1e-15, -1e-15])
    magnitude, angle = to_polar(real, imaginary)
    expected = torch.complex(real, imaginary)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(magnitude, expected.abs(), atol=1e-17, rtol=4 * rounding)
    torch.testing.assert_close(angle, expected.angle(), atol=0, rtol=4 * rounding)


def test_nothing_has_finite_numbers_and_gradients():
    for dtype in (torch.float32, torch.float64):
        real = torch.zeros(4, dtype=dtype, requires_grad=True)
        imaginary = torch.zeros(4, dtype=dtype, requires_grad=True)
        magnitude, angle = to_polar(real, imaginary)
        (magnitude * angle.cos() + magnitude * angle.sin()).sum().backward()
        for tensor in (magnitude, angle, real.grad, imaginary.grad):
            assert tensor.isfinite().all()
        assert magnitude.max() < 1e-17
    block = FourierBlock(16)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.zeros(1, 16, 3, 4, requires_grad=True)
    result = block(x)
    result.sum().backward()
    assert result.isfinite().all()
    assert x.grad.isfinite().all()


def a_unet():
    unet = FourierUNet.from_config(UNET | {"in_channels": 4})
    randomise(unet, torch.Generator().manual_seed(0))
    return unet.eval().requires_grad_(False)


def test_a_copy_of_the_network_runs_its_own_block():
    unet = a_unet()
    other = copy.deepcopy(unet)
    other.fftblock.fuse.weight.data.zero_()
    given = numbers(1, 1, 4, 8, 8), 1, numbers(2, 1, 2, 24)
    before = unet(*given).sample
    assert not torch.equal(other(*given).sample, before)
    torch.testing.assert_close(unet(*given).sample, before, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_block_stays_float32_with_its_own_weights(precision):
    model = random_model().float()
    model.unet = a_unet().float()
    weight = model.unet.fftblock.conv_f2.weight.clone()
    to_precision(model, precision)
    island = model.unet.fftblock
    assert isinstance(island, Fp32Island)
    assert torch.equal(island.inner.conv_f2.weight, weight)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert model.unet.conv_in.weight.dtype == dtype
    result = island(numbers(3, 1, 64, 3, 4).to(dtype))
    assert result.dtype == dtype
    assert result.isfinite().all()
