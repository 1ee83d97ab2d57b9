import numpy as np
import pytest
import torch
from torch import nn

from e2e_deploy.errors import UsageError
from e2e_deploy.export.graph.precision import Attend, Fp32Island, to_precision
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from tests.small_checkpoint import write_small


@pytest.fixture
def attention():
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    return Attention(query_dim=32, heads=2, dim_head=16, bias=False).eval()


def test_a_group_norm_island_survives_values_whose_squares_overflow_fp16():
    torch.manual_seed(0)
    x_1CHW = (torch.randn(1, 8, 16, 16) * 15_000).clamp(-60_000, 60_000)
    norm = nn.GroupNorm(2, 8)
    expected = norm(x_1CHW)
    island = Fp32Island(norm)(x_1CHW.half())
    assert island.dtype == torch.float16
    assert torch.isfinite(island).all()
    np.testing.assert_allclose(island.float().detach(), expected.detach(), atol=5e-3)
    # The guard is needed: the same statistics in fp16 are infinite.
    assert not torch.isfinite(x_1CHW.half().square()).all()


def test_attention_logits_beyond_fp16_stay_right(attention):
    x_1TC = torch.randn(1, 6, 32)
    with torch.no_grad():
        attention.to_q.weight.mul_(400)
        attention.to_k.weight.mul_(400)
        attention.set_processor(Attend(fused=False))
        expected = attention(x_1TC)
        half = attention.half()
        q, k = half.to_q(x_1TC.half()), half.to_k(x_1TC.half())
        logits = q.view(1, 6, 2, 16).transpose(1, 2) @ k.view(1, 6, 2, 16).permute(0, 2, 3, 1)
        assert not torch.isfinite(logits).all(), "the test must overflow fp16 to prove the guard"
        result = half(x_1TC.half())
    assert torch.isfinite(result).all()
    error = (result.float() - expected).norm() / expected.norm()
    assert error < 5e-3


def test_attend_equals_diffusers(attention):
    x_1TC = torch.randn(2, 6, 32)
    with torch.no_grad():
        expected = attention(x_1TC)
        for fused in (True, False):
            attention.set_processor(Attend(fused=fused))
            torch.testing.assert_close(attention(x_1TC), expected, atol=1e-6, rtol=1e-5)


def test_types_are_where_they_should_be(small):
    model = load_model(open_checkpoint(small))
    body = to_precision(model, "fp16").model
    islands = [m for m in body.modules() if isinstance(m, Fp32Island)]
    inside = {id(p) for island in islands for p in island.parameters()}
    norms = [m for m in body.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    assert norms
    assert all(p.dtype == torch.float32 for norm in norms for p in norm.parameters())
    assert isinstance(body.vae.decoder.conv_out, Fp32Island)
    for name, parameter in body.named_parameters():
        wanted = torch.float32 if id(parameter) in inside else torch.float16
        assert parameter.dtype == wanted, name


@pytest.mark.parametrize("specialised", [True, False])
def test_a_small_coder_ends_in_fp32_too(tmp_path, specialised):
    rgb_13HW = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = load_model(open_checkpoint(write_small(tmp_path / "c", tiny={})))
    with torch.no_grad():
        expected = model(rgb_13HW)
        body, _ = prepare(model, precision="fp16", specialised=specialised, sizes_hw=[(32, 48)])
        result = body(rgb_13HW)
    layers = body.model.vae.decoder.layers
    assert isinstance(layers[-1], Fp32Island)
    assert {p.dtype for p in layers[:-1].parameters()} == {torch.float16}
    assert result.dtype == torch.float32
    assert len(torch.unique(result)) > 0.9 * result.numel()  # no steps of fp16
    assert (result - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("bf16", 8e-2)])
def test_half_precision_is_close_and_in_fp32_at_the_end(small, precision, bound):
    rgb_13HW = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = load_model(open_checkpoint(small))
    with torch.no_grad():
        expected = model(rgb_13HW)
        body, _ = prepare(model, precision=precision, specialised=True, sizes_hw=[(32, 48)])
        result = body(rgb_13HW)
    assert result.dtype == torch.float32
    error = float((result - expected).norm() / expected.norm())
    assert 0 < error < bound  # zero would mean that nothing was halved


def test_an_unknown_precision_is_refused(small):
    with pytest.raises(UsageError, match="fp8"):
        to_precision(load_model(open_checkpoint(small)), "fp8")
