import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from e2e_deploy.export.onnx import trace as tracing
from e2e_deploy.export.onnx.trace import OPSET, WeightFile, save, trace, weight_bytes


class Net(nn.Module):
    """Two convolutions, one of them with weights above and one below the size that is worth sharing."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.wide, self.thin = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 1, 1)

    def forward(self, frame):
        return self.thin(torch.relu(self.wide(frame.permute(0, 3, 1, 2).float())))


def traced(net, hw=(8, 9)):
    frame = torch.zeros(1, *hw, 3, dtype=torch.uint8)
    return trace(net.eval(), frame, input_name="frame", output_names=["depth"])


def run(path, frame):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"frame": frame})[0]


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return {hw: rng.integers(0, 256, (1, *hw, 3), dtype=np.uint8) for hw in ((8, 9), (12, 7))}


def expected(net, frame):
    with torch.inference_mode():
        return net(torch.from_numpy(frame)).numpy()


def test_the_graph_computes_what_the_module_does(net, frames, tmp_path):
    save(traced(net), tmp_path / "m.onnx")
    frame = frames[8, 9]
    np.testing.assert_allclose(
        run(tmp_path / "m.onnx", frame), expected(net, frame), rtol=1e-5, atol=1e-4
    )


def test_the_file_is_valid_static_and_named(net, tmp_path):
    model = traced(net)
    assert weight_bytes(model) == 4 * sum(p.numel() for p in net.parameters())
    save(model, tmp_path / "m.onnx")
    loaded = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    assert [(i.domain, i.version) for i in loaded.opset_import] == [("", OPSET)]
    (given,), (gives,) = loaded.graph.input, loaded.graph.output
    assert (given.name, gives.name) == ("frame", "depth")
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 8, 9, 3]
    assert [d.dim_value for d in gives.type.tensor_type.shape.dim] == [1, 1, 6, 7]
    names = [node.name for node in loaded.graph.node]
    assert len(set(names)) == len(names)
    assert {"wide/Conv", "thin/Conv"} <= set(names)


def test_the_file_holds_no_path_of_this_machine_and_is_the_same_twice(net, tmp_path):
    for name in ("a", "b"):
        save(traced(net), tmp_path / f"{name}.onnx")
    data = (tmp_path / "a.onnx").read_bytes()
    assert data == (tmp_path / "b.onnx").read_bytes()
    for word in (b"site-packages", b".py", b"/home", str(tmp_path.parent).encode()):
        assert word not in data


def test_graphs_share_the_weights_they_have_in_common(net, frames, tmp_path):
    with WeightFile(tmp_path / "model.data") as weights:
        for hw in frames:
            save(traced(net, hw), tmp_path / f"{hw[0]}.onnx", weights)
    once = net.wide.weight.numel() * 4
    assert (tmp_path / "model.data").stat().st_size == once
    for hw, frame in frames.items():
        path = tmp_path / f"{hw[0]}.onnx"
        onnx.checker.check_model(str(path))
        assert path.stat().st_size < 4000
        np.testing.assert_allclose(run(path, frame), expected(net, frame), rtol=1e-5, atol=1e-4)
        external = {
            i.name: {e.key: e.value for e in i.external_data}
            for i in onnx.load(path, load_external_data=False).graph.initializer
            if i.data_location == onnx.TensorProto.EXTERNAL
        }
        assert set(external) == {"wide.weight"}
        assert external["wide.weight"]["location"] == "model.data"


def test_different_weights_are_not_mixed_up_and_lie_on_pages(tmp_path, frames):
    frame, nets = frames[8, 9], [Net(seed) for seed in (1, 2)]
    with WeightFile(tmp_path / "model.data") as weights:
        for i, net in enumerate(nets):
            save(traced(net), tmp_path / f"{i}.onnx", weights)
    for i, net in enumerate(nets):
        got = run(tmp_path / f"{i}.onnx", frame)
        np.testing.assert_allclose(got, expected(net, frame), rtol=1e-5, atol=1e-4)
        loaded = onnx.load(tmp_path / f"{i}.onnx", load_external_data=False)
        offsets = [
            int(e.value)
            for t in loaded.graph.initializer
            for e in t.external_data
            if e.key == "offset"
        ]
        assert offsets == [i * tracing._ALIGNMENT]
