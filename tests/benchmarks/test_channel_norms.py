import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.gpu.profiling.channel_norms import ChannelGroupNorm, by_channel
from tests.group_norms import seeded_norm


@settings(max_examples=30, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    offset=st.sampled_from([0.0, 5.0, -1e4]),
    order=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_by_channel_equals_group_norm(groups, height, width, offset, order):
    norm = seeded_norm(groups, 8)
    x = torch.randn(2, 8, height, width, dtype=torch.float64) * 3 + offset
    result = ChannelGroupNorm(norm)(x.contiguous(memory_format=order))
    torch.testing.assert_close(result, norm(x), atol=1e-8, rtol=1e-8)


def test_by_channel_takes_tokens():
    norm = seeded_norm(2, 8)
    x_NCT = torch.randn(3, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(ChannelGroupNorm(norm)(x_NCT), norm(x_NCT))


def far_from_zero():
    """[1, 32, 96, 128] with channels of other means, and one pixel that is like no other."""
    x = torch.randn(1, 32, 96, 128, dtype=torch.float64) + 1000 * torch.randn(1, 32, 1, 1)
    x[:, :, 0, 0] = 3000
    return x.float()


def test_by_channel_is_as_exact_in_fp32_as_torch():
    norm, x = seeded_norm(4, 32), far_from_zero()
    exact = norm(x.double())
    ours = ChannelGroupNorm(norm.float())(x).double()
    error, torchs = ((each - exact).norm() / exact.norm() for each in (ours, norm(x).double()))
    assert error < max(2 * torchs, 1e-6)


def test_by_channel_computes_in_fp32_in_half_precision():
    norm = seeded_norm(4, 32).half()
    x = (torch.randn(1, 32, 48, 64) * 400 + 2000).half()
    exact = torch.nn.functional.group_norm(
        x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps
    )
    ours = ChannelGroupNorm(norm)(x)
    assert ours.dtype == torch.float16
    assert (ours.double() - exact).norm() / exact.norm() < 5e-4


def test_by_channel_keeps_the_order_of_memory_and_copies_no_map(monkeypatch):
    norm, x = (
        seeded_norm(2, 8),
        torch.randn(1, 8, 5, 6).contiguous(memory_format=torch.channels_last),
    )
    real = torch.Tensor.reshape

    def small_only(self, *shape):
        assert self.numel() < x.numel(), "a map is reshaped"
        return real(self, *shape)

    monkeypatch.setattr(torch.Tensor, "reshape", small_only)
    monkeypatch.setattr(torch.Tensor, "flatten", small_only)
    result = ChannelGroupNorm(norm.float())(x)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_by_channel_of_a_flat_map_is_its_bias():
    norm = seeded_norm(2, 8)
    x = torch.full((1, 8, 4, 4), 7.0, dtype=torch.float64)
    torch.testing.assert_close(ChannelGroupNorm(norm)(x), norm(x))


def test_by_channel_replaces_every_group_norm():
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.Sequential(seeded_norm(2, 8)))
    weights = model[0].weight, model[1][0].weight
    assert by_channel(model) == 2
    for norm, weight in zip((model[0], model[1][0]), weights, strict=True):
        assert isinstance(norm, ChannelGroupNorm)
        assert norm.weight is weight
