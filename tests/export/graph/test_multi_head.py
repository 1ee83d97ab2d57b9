"""Attention as one node: the kernel, the function that explains it, and where neither is used."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from e2e_deploy.export.graph.attention import attend
from e2e_deploy.export.graph.multi_head import DOMAIN, NAME
from e2e_deploy.export.onnx import trace
from e2e_deploy.export.onnx.lint import lint


class Mixing(nn.Module):
    """Self attention of two heads, then a constant prompt of three tokens."""

    def __init__(self, *, fused: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("prompt", torch.randn(1, 2, 3, 8, generator=generator))
        self.fused = fused

    def forward(self, x_N16T: torch.Tensor) -> torch.Tensor:
        """[N, 2, T, 8]."""
        heads = x_N16T.unflatten(1, (2, 8)).transpose(2, 3)
        mixed = attend(heads * 0.3, heads, heads + 1, fused=self.fused)
        return attend(mixed, self.prompt, self.prompt, fused=self.fused)


@pytest.fixture(scope="module")
def example():
    return torch.randn(1, 16, 20, generator=torch.Generator().manual_seed(1))


def traced(module, example, tmp_path, opset=20):
    graph = trace.trace(module.eval(), example, input_name="x", output_names=["y"], opset=opset)
    trace.save(graph, tmp_path / "m.onnx")
    return graph, tmp_path / "m.onnx"


def test_kernel_and_function_both_give_torchs_result(example, tmp_path):
    graph, path = traced(Mixing(), example, tmp_path)
    found = [node.op_identifier() for node in graph.graph if node.domain]
    assert found == [(DOMAIN, NAME, "")] * 2
    expected = Mixing()(example).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": example.numpy()})[0], expected, atol=1e-6)
    # The reference evaluator knows no operator of ONNX Runtime: it runs the function.
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    explained = ReferenceEvaluator(model).run(None, {"x": example.numpy()})[0]
    np.testing.assert_allclose(explained, expected, atol=1e-6)


def test_from_opset_23_on_it_is_the_standards_operator(example, tmp_path):
    graph, path = traced(Mixing(), example, tmp_path, opset=23)
    assert [node.name for node in graph.graph if node.op_type == "Attention"] == [
        "frame/Attention",
        "frame/Attention_2",
    ]
    assert not graph.functions
    assert dict(graph.opset_imports) == {"": 23}
    onnx.checker.check_model(path, full_check=True)
    expected = Mixing()(example).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": example.numpy()})[0], expected, atol=1e-6)


def test_the_lint_looks_into_the_function(example, tmp_path):
    graph, _ = traced(Mixing(), example, tmp_path)
    assert lint(graph, "onnxruntime") == []
    function = graph.functions[DOMAIN, NAME, ""]
    next(node for node in function if node.op_type == "Softmax").op_type = "Hardmax"
    assert any("Hardmax" in str(finding) for finding in lint(graph, "onnxruntime"))
    del graph.functions[DOMAIN, NAME, ""]
    assert any(f"{DOMAIN}.{NAME}" in str(finding) for finding in lint(graph, "onnxruntime"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_attends_in_float32_between_casts(example, tmp_path, dtype):
    """Logits of 100 000, beyond fp16: softmax then picks one value, and a single infinity would make it NaN."""
    large = Mixing(fused=False)
    large.prompt *= 300
    graph, path = traced(large.to(dtype), (300 * example).to(dtype), tmp_path)
    nodes = [node for node in graph.graph if node.domain]
    assert [node.op_identifier() for node in nodes] == [(DOMAIN, NAME, "")] * 2
    for node in nodes:
        assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT}
    assert lint(graph, "tensorrt-rtx") == []
    if dtype == torch.float16:  # ONNX Runtime has no bf16 on a CPU
        x = (300 * example).half()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})[0].astype(np.float32)
        expected = large.float()(x.float()).numpy()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.5)


@pytest.mark.parametrize("module", [Mixing(fused=False), Mixing().double()])
def test_other_attentions_stay_products(module, example, tmp_path):
    dtype = module.prompt.dtype
    graph, _ = traced(module, example.to(dtype), tmp_path)
    assert not graph.functions
    assert {node.domain for node in graph.graph} == {""}
