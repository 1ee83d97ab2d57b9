"""The bundle that travels with the package, and how its weights are stored."""

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.accuracy.ready_bundle import narrow
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.checks.verify import compare


def test_it_is_what_this_version_reads_and_computes():
    bundle = open_bundle(READY_BUNDLE)
    assert (bundle.manifest.task, bundle.manifest.precision) == ("depth", "fp32")
    assert bundle.manifest.checkpoint.id == "bundled:e2e-tiny-depth"
    (verdict,) = compare(bundle, "onnxruntime", "cpu")
    assert verdict.failures == []


def test_it_is_half_the_size_of_its_weights():
    graph = open_bundle(READY_BUNDLE).manifest.files["model.onnx"]
    assert graph.bytes < 13e6


@pytest.fixture
def two_products(rng):
    """x @ exact @ inexact in float32; only the first matrix is one that 16 bits hold."""
    exact = rng.standard_normal((32, 32)).astype(np.float16).astype(np.float32)
    inexact = np.full((32, 32), 0.1, dtype=np.float32)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 32]))
    weights = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape([32, 32]))
        for name, array in (("exact", exact), ("inexact", inexact))
    ]
    nodes = [ir.node("MatMul", [x, weights[0]])]
    nodes.append(ir.node("MatMul", [nodes[0].outputs[0], weights[1]]))
    y = nodes[1].outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [y], nodes=nodes, initializers=weights, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_narrowing_changes_no_number(two_products, rng):
    import onnxruntime as ort

    x = rng.standard_normal((1, 32)).astype(np.float32)

    def result():
        data = ir.to_proto(two_products).SerializeToString()
        return ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]

    before = result()
    narrow(two_products)
    stored = {v.const_value.dtype for v in two_products.graph.initializers.values()}
    assert stored == {ir.DataType.FLOAT16, ir.DataType.FLOAT}
    assert sorted(two_products.graph.initializers) == ["exact.fp16", "inexact"]
    assert np.array_equal(result(), before)


def test_plans_are_not_built_into_the_package(cli, tmp_path):
    code, stdout, stderr = cli("run", tmp_path / "photo.jpg", "--rebuild")
    assert (code, stdout) == (2, "")
    assert "add --bundle" in stderr
