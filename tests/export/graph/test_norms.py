import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from e2e_deploy.export.graph import norms
from e2e_deploy.export.graph.norms import ShortSumGroupNorm, shorten_sums
from e2e_deploy.export.onnx.trace import save, trace
from tests.group_norms import seeded_norm


@settings(max_examples=30, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    limit=st.sampled_from([0, 10**9]),
)
def test_equals_group_norm(groups, height, width, limit):
    norm = seeded_norm(groups, 8)
    x = torch.randn(2, 8, height, width, dtype=torch.float64) * 3 + 5
    kept, norms.MAX_GROUP = norms.MAX_GROUP, limit
    try:
        result = ShortSumGroupNorm(norm)(x)
    finally:
        norms.MAX_GROUP = kept
    torch.testing.assert_close(result, norm(x), atol=1e-10, rtol=1e-10)


def test_tokens_pass_through():
    norm = seeded_norm(2, 8)
    x_NCT = torch.randn(1, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(ShortSumGroupNorm(norm)(x_NCT), norm(x_NCT))


def test_every_group_norm_is_replaced_and_keeps_its_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU()))
    weight = model[1][0].weight
    shorten_sums(model)
    assert isinstance(model[1][0], ShortSumGroupNorm)
    assert model[1][0].weight is weight


@pytest.mark.slow
def test_long_groups_are_more_accurate_in_onnx_runtime(tmp_path):
    norm = nn.GroupNorm(2, 4, eps=1e-6).eval()
    generator = torch.Generator().manual_seed(0)
    x_1CHW = torch.randn(1, 4, 720, 1280, generator=generator) * 2 + 0.7
    exact = seeded_norm(2, 4)
    nn.init.ones_(exact.weight)
    nn.init.zeros_(exact.bias)
    expected = exact(x_1CHW.double()).detach().numpy()
    errors = {}
    for name, module in (("plain", norm), ("short", ShortSumGroupNorm(norm))):
        path = tmp_path / f"{name}.onnx"
        save(trace(module, x_1CHW, input_name="x", output_names=["y"]), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        result = session.run(None, {"x": x_1CHW.numpy()})[0]
        errors[name] = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    assert errors["short"] < 1e-6 < errors["plain"]
