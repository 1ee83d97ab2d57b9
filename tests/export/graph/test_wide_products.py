"""Products with float32 results: exact everywhere, and what a CUDA device is asked for, without one."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from e2e_deploy.export.graph import attention, precision, wide_products
from e2e_deploy.export.graph.attention import FUSED_WIDTH, attend
from e2e_deploy.export.graph.precision import Fp32Island, LastConvolution
from e2e_deploy.export.graph.wide_products import convolve_by_taps, product_in_fp32

HALF = [torch.float16, torch.bfloat16]
ORDERS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def like_cuda(monkeypatch):
    """The code that a CUDA device runs, on this CPU; the one operator that a CPU lacks gets a kernel."""

    def mm(a, b, out_dtype):
        return torch.mm(a.to(out_dtype), b.to(out_dtype))

    for module in (wide_products, attention, precision):
        monkeypatch.setattr(module, "on_tensor_cores", lambda x: x.dtype in HALF)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.dtype", mm, "CPU")
        yield


class Operators(TorchDispatchMode):
    """Counts operators by the type they give."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple) else out
        self.found[str(function), getattr(first, "dtype", None)] += 1
        return out


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 9),
    outputs=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    taps=st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 3)]),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 9),
)
def test_a_convolution_by_taps_is_the_convolution(
    batch, channels, outputs, height, width, taps, order, seed
):
    random = torch.Generator().manual_seed(seed)
    draw = {"generator": random, "dtype": torch.float64}
    x = torch.randn(batch, channels, height, width, **draw).contiguous(memory_format=order)
    weight, bias = torch.randn(outputs, channels, *taps, **draw), torch.randn(outputs, **draw)
    expected = F.conv2d(x, weight, bias, padding=(taps[0] // 2, taps[1] // 2))
    torch.testing.assert_close(convolve_by_taps(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", HALF)
def test_the_last_convolution_loses_nothing_to_half_inputs(like_cuda, dtype, order):
    """Its result is that of float32 arithmetic on the same rounded numbers, finer than the type it reads."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(32, 3, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 32, 9, 14).to(dtype).contiguous(memory_format=order)
    last = LastConvolution(conv.to(dtype))
    result = last(x)
    exact = F.conv2d(x.double(), last.inner.weight.double(), last.inner.bias.double(), padding=1)
    assert result.dtype == torch.float32
    error = (result - exact).norm() / exact.norm()
    assert error < 1e-6
    assert (exact.to(dtype) - exact).norm() / exact.norm() > 100 * error
    torch.testing.assert_close(result, Fp32Island(conv, cast_back=False)(x), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    lead=st.sampled_from([(1, 1), (2, 3), (1,), (2, 1, 2)]),
    tokens=st.integers(1, 7),
    length=st.integers(1, 7),
    width=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_attention_by_products_is_attention(lead, tokens, length, width, seed):
    random = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(*lead, count, width, generator=random, dtype=torch.float64)
        for count in (tokens, length, length)
    )
    expected = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(
        attend(query, key, value, fused=False), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("at_once", [2**27, 40, 1])
def test_a_wide_head_is_products_in_parts(like_cuda, monkeypatch, dtype, at_once):
    """Logits beyond fp16, and three sizes of part: all the same as float64 says of the rounded inputs."""
    monkeypatch.setattr(attention, "MAX_LOGITS", at_once)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 13, FUSED_WIDTH + 8).to(dtype) for _ in range(3))
    query = query * 300
    expected = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), scale=1.0
    )
    with Operators() as seen:
        result = attend(query, key, value, fused=True)
    assert result.dtype == dtype
    assert (result.double() - expected).norm() / expected.norm() < 4 * torch.finfo(dtype).eps
    logits = seen.found["aten.mm.dtype", torch.float32]
    assert logits == -(-13 // max(1, at_once // 13))


@pytest.mark.parametrize("dtype", HALF)
def test_what_a_cuda_device_is_asked_for(dtype):
    """No product and no convolution in float32, and no fused attention of a head that no kernel takes."""
    last = LastConvolution(torch.nn.Conv2d(32, 1, 3, padding=1, device="meta"))
    with FakeTensorMode(), Operators() as seen:
        x = torch.empty(1, 32, 12, 16, device="cuda", dtype=dtype)
        for name, tensor in list(last.inner.named_parameters()):
            on_device = torch.empty(tensor.shape, device="cuda")
            setattr(last.inner, name, torch.nn.Parameter(on_device, requires_grad=False))
        assert last(x).shape == (1, 1, 12, 16)
        convolved = {name for name, _ in seen.found}
        wide, narrow = (
            torch.empty(1, 2, 24, width, device="cuda", dtype=dtype)
            for width in (FUSED_WIDTH + 8, FUSED_WIDTH)
        )
        seen.found.clear()
        assert attend(wide, wide, wide, fused=True).shape == wide.shape
        by_products = Counter(seen.found)
        seen.found.clear()
        assert attend(narrow, narrow, narrow, fused=True).shape == narrow.shape
    assert "aten.mm.dtype" in convolved
    assert not any("conv" in name for name in convolved)
    names = {name for name, _ in by_products}
    assert by_products["aten.mm.dtype", torch.float32] == 2  # one a head
    assert by_products["aten.bmm.default", dtype] == 1
    assert ("aten.bmm.default", torch.float32) not in by_products
    assert not any("attention" in name for name in names)
    assert ("aten.mm.dtype", torch.float32) not in seen.found


def test_leading_sides_are_kept(like_cuda):
    a, b = torch.ones(2, 3, 4, 5, dtype=torch.float16), torch.ones(2, 3, 5, 6, dtype=torch.float16)
    result = product_in_fp32(a, b)
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result, np.full((2, 3, 4, 6), 5.0, np.float32))


def test_aotinductor_can_call_it():
    """What has no function in its C interface does not compile into a package, which shows on a GPU only."""
    fallback = pytest.importorskip("torchgen.aoti.fallback_ops")
    assert "aten.mm.dtype_out" in fallback.inductor_fallback_ops
