"""Graphs whose height and width stay open: every layer of ours that asks for a size, in one small net."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from e2e_deploy.export.graph.attention import SingleHeadAttention
from e2e_deploy.export.graph.norms import ShortSumGroupNorm
from e2e_deploy.export.graph.passes.layers import UpsampleConv
from e2e_deploy.export.onnx.lint import lint
from e2e_deploy.export.onnx.trace import save, trace

STEP = 16


class Net(nn.Module):
    """Down, normalised, attended, up again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = ShortSumGroupNorm(nn.GroupNorm(2, 8))
        self.attention = SingleHeadAttention(nn.GroupNorm(2, 8), nn.Linear(8, 8), nn.Linear(8, 8))
        self.up = UpsampleConv(nn.Conv2d(8, 8, 3, padding=1))
        self.again = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, rgb_N3HW):
        return self.again(self.up(self.attention(torch.relu(self.norm(self.down(rgb_N3HW))))))


@pytest.fixture(scope="module")
def net():
    return Net().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def open_graph(net, tmp_path_factory):
    rgb = torch.zeros(1, 3, 2 * STEP, 3 * STEP)
    graph = trace(net, rgb, input_name="rgb", output_names=["y"], multiple_of=STEP)
    assert lint(graph, "onnxruntime") == []
    path = tmp_path_factory.mktemp("open") / "model.onnx"
    save(graph, path)
    return path


@pytest.mark.parametrize("hw", [(32, 48), (48, 32), (96, 32), (128, 144)])
def test_the_graph_equals_torch_at_every_size(net, open_graph, hw):
    rgb = torch.randn(1, 3, *hw, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(open_graph, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"rgb": rgb.numpy()})
    assert got.shape == (1, 8, *hw)
    np.testing.assert_allclose(got, net(rgb).numpy(), atol=1e-5)


def test_a_side_that_is_no_multiple_is_refused(open_graph):
    """The first node says that they are multiples, for builders; whoever gives others is told there."""
    session = onnxruntime.InferenceSession(open_graph, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="frame/state_multiple"):
        session.run(None, {"rgb": np.zeros((1, 3, 2 * STEP, 2 * STEP + 8), np.float32)})


def test_only_the_sides_are_open_and_long_groups_sum_by_rows(open_graph):
    """Nobody knows at export how large a picture will come, so the sums that stay short are taken."""
    model = onnx.load(open_graph)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        batch, channels, *sides = value.type.tensor_type.shape.dim
        assert batch.dim_value == 1
        assert channels.dim_value in (3, 8)
        assert [side.dim_param for side in sides] == ["16*rows", "16*columns"]
    norm = {node.op_type for node in model.graph.node if node.name.startswith("norm/")}
    assert "ReduceMean" in norm
    assert "InstanceNormalization" not in norm
