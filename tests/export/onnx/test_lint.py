import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.export.onnx.lint import TARGETS, lint, lint_file, require_clean, require_whole
from e2e_deploy.export.onnx.trace import trace
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from tests.small_graphs import write_conv


def _model(nodes, *, weights=(), dtype=TensorProto.FLOAT, opset=20, shape=(1, 4), gives=None):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, gives or shape)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


ADD = helper.make_node("Add", ["x", "w"], ["y"], name="add")
WEIGHT = ("w", np.ones(4, np.float32))


def test_a_clean_graph_has_no_findings():
    for target in TARGETS:
        assert lint(_model([ADD], weights=[WEIGHT]), target) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_model([helper.make_node("Abs", ["x"], ["y"])], dtype=TensorProto.DOUBLE), "DOUBLE"),
        (_model([helper.make_node("Unique", ["x"], ["y"], name="odd")]), "odd: is a Unique"),
        (
            _model([helper.make_node("Relu", ["x"], ["y"], domain="com.example")]),
            "com.example.Relu",
        ),
        (
            _model(
                [
                    helper.make_node("Neg", ["w"], ["n"], name="neg"),
                    helper.make_node("Add", ["x", "n"], ["y"]),
                ],
                weights=[WEIGHT],
            ),
            "neg: Neg of constants only",
        ),
        (
            _model([ADD], weights=[WEIGHT, ("lost", np.ones(2, np.float32))]),
            "lost: is a weight that nothing",
        ),
        (_model([ADD], weights=[WEIGHT], opset=27), "opset 27"),
        (_model([ADD], weights=[WEIGHT], shape=(1000, 4)), "batch of 1000"),
        (_model([ADD], weights=[WEIGHT], shape=("batch", 4)), "batch of batch"),
        (_model([ADD], weights=[WEIGHT], shape=(1, 0)), "x: has a side of 0"),
        (_model([ADD], weights=[WEIGHT], shape=(1, None)), "y: has a side of None"),
        (_model([ADD], weights=[WEIGHT], shape=(1, "w"), gives=(1, "v")), "y: has a side of v"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(model, words):
    findings = [str(finding) for finding in lint(model, "tensorrt-rtx")]
    assert any(words in finding for finding in findings), findings
    with pytest.raises(E2EDeployError, match="not fit for tensorrt-rtx"):
        require_clean(model, "tensorrt-rtx")


def test_a_side_may_stay_open_if_an_input_gives_it():
    assert lint(_model([ADD], weights=[WEIGHT], shape=(1, "width")), "tensorrt") == []


def test_a_tensor_can_be_too_large_for_one_target_only():
    model = _model([ADD], weights=[WEIGHT], shape=(1, 2**29, 4))
    assert lint(model, "onnxruntime") == []
    (finding,) = lint(model, "tensorrt-10")
    assert "add: gives 2147483648 numbers" in str(finding)
    assert lint(_model([ADD], weights=[WEIGHT], shape=(1, 2**29, 3)), "tensorrt-10") == []


def test_weights_that_are_cut_short_or_gone(tmp_path):
    path = write_conv(tmp_path / "model.onnx", beside=True)
    assert lint_file(path) == []
    require_whole(path)
    data = path.with_name("model.data")
    data.write_bytes(data.read_bytes()[:-1])
    (finding,) = lint_file(path)
    assert "kernel: ends at byte 3456 of model.data, which has 3455" in str(finding)
    data.unlink()
    with pytest.raises(E2EDeployError, match="model.data, which has 0; export again"):
        require_whole(path)


def test_a_file_that_no_parser_reads(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # takes no room on the disk
    (finding,) = lint_file(path)
    assert "is 2147483648 bytes" in str(finding)


def test_an_opset_can_be_too_new_for_one_target_only():
    model = _model([ADD], weights=[WEIGHT], opset=23)
    assert lint(model, "tensorrt") == []
    assert "20" in str(lint(model, "tensorrt-10")[0])


@pytest.mark.slow
def test_the_specialised_graph_is_clean(small):
    model = load_model(open_checkpoint(small))
    plan = model.plan((32, 48), 0)
    body, passes = prepare(model, precision="fp16", specialised=True, sizes_hw=[plan.padded_hw])
    frame = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    graph = trace(
        FrameModel(body, plan, ("depth",)).eval(), frame, input_name="frame", output_names=["depth"]
    )
    assert passes
    assert len(list(graph.graph)) > 100
    assert lint(graph, "tensorrt-10") == []
