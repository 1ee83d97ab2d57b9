import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.errors import ParityError, UnavailableError, UsageError
from e2e_deploy.export import verified
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.graph.multi_head import DOMAIN, settle_attention
from e2e_deploy.export.onnx import quantise as quantise_module
from e2e_deploy.export.onnx.quantise import (
    calibration_bytes,
    calibration_frames,
    nodes_to_quantise,
    quantise,
)
from e2e_deploy.export.onnx.trace import WeightFile, save, weight_bytes
from e2e_deploy.export.verified import judged
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.packages import import_openvino
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.openvino import devices
from e2e_deploy.runtime.checks.verify import Verdict, compare
from tests.plain_bundle import write_plain_bundle
from tests.small_checkpoint import edit_weights, write_small

HW = (32, 48)
WIDE = ["unet.block.conv1/Conv", "unet.attn1.to_q/MatMul"]


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture
def graph(rng, tmp_path):
    """Two convolutions, three products and an attention node between x [1, 16, 8, 8] and y [1, 64, 16]."""
    tensors = {
        "first": weight(rng, 16, 16, 3, 3),
        "wide": weight(rng, 16, 16, 3, 3) * np.geomspace(0.01, 1, 16)[:, None, None, None],
        "to_q": weight(rng, 16, 16),
        "columns": weight(rng, 16, 16),
        "flat": np.array([1, 16, 64]),
    }

    def conv(*, of, kernel, to, name):
        return helper.make_node("Conv", [of, kernel], [to], name=name, pads=[1, 1, 1, 1])

    nodes = [
        conv(of="x", kernel="first", to="a", name="unet.conv_in/Conv"),
        conv(of="a", kernel="wide", to="b", name=WIDE[0]),
        helper.make_node("Reshape", ["b", "flat"], ["c"], name="unet.flat/Reshape"),
        helper.make_node("Transpose", ["c"], ["t"], name="unet.turn/Transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "to_q"], ["q"], name=WIDE[1]),
        helper.make_node(
            "MultiHeadAttention",
            ["q", "t", "t"],
            ["m"],
            name="unet.attn1/MultiHeadAttention",
            domain=DOMAIN,
            num_heads=2,
            scale=1.0,
        ),
        helper.make_node("MatMul", ["m", "c"], ["s"], name="unet.attn1/MatMul"),
        helper.make_node("MatMul", ["s", "t"], ["u"], name="unet.attn1/MatMul_2"),
        helper.make_node("MatMul", ["u", "columns"], ["y"], name="frame/MatMul"),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 16])],
            [
                numpy_helper.from_array(v.astype(np.int64 if k == "flat" else np.float32), k)
                for k, v in tensors.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    model = ir.from_proto(proto)
    settle_attention(model)
    save(model, tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx"


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # as OrtBackend
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x[None]})[0]


def weight_types(path):
    """Type of the second input of each Conv and MatMul, through a DequantizeLinear; None where it is no constant."""
    model = onnx.load(path)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    behind = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return {
        node.name: stored.get(behind.get(node.input[1], node.input[1]))
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul")
    }


def test_too_little_memory_is_said_before_the_system_ends_the_process(graph, tmp_path, monkeypatch):
    """A model of SD2's size at 576x768 holds 14.6 GB of results; a session with its weights comes on top."""
    model = ir.load(graph)
    held = 4 * 2 * 1024  # x and y; what is between them has no shape here
    assert calibration_bytes(model) == 1.5 * (held + 2 * weight_bytes(model))
    monkeypatch.setattr(quantise_module, "available_memory_bytes", lambda: held)
    with pytest.raises(UnavailableError, match=r"int8 needs 0\.0 GB, and 0\.0 GB.*`frame_sizes`"):
        quantise(graph, tmp_path / "int8.onnx", np.zeros((1, 16, 8, 8), np.float32))
    assert not (tmp_path / "int8.onnx").exists()


def test_wide_layers_become_8_bits_and_the_others_stay(graph, rng):
    inputs = rng.standard_normal((3, 16, 8, 8)).astype(np.float32)
    target = graph.with_name("int8.onnx")
    assert nodes_to_quantise(ir.load(graph)) == WIDE
    assert quantise(graph, target, inputs) == len(WIDE)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    types = weight_types(target)
    assert {name for name, kind in types.items() if kind == TensorProto.INT8} == set(WIDE)
    assert types["unet.conv_in/Conv"] == types["frame/MatMul"] == TensorProto.FLOAT
    model = onnx.load(target)
    assert [f.name for f in model.functions] == ["MultiHeadAttention"]
    assert "MultiHeadAttention" in {node.op_type for node in model.graph.node}
    # a scale for each of 16 output channels, which differ a hundred times here
    scales = {t.name: t.dims for t in model.graph.initializer if t.name == "wide_scale"}
    assert list(scales["wide_scale"]) == [16]
    assert sorted(p.name for p in graph.parent.iterdir()) == ["fp32.onnx", "int8.onnx"]
    for x in inputs:
        exact, rounded = run(graph, x), run(target, x)
        error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 1e-5 < error < 0.05


def test_the_ends_of_a_small_coder_stay(rng, tmp_path):
    """Which carry pictures and latents; its other layers have names of the same kind."""
    shapes = {
        "model.vae.encoder.layers.0": (16, 3, 3, 3),
        "model.vae.encoder.layers.1": (16, 16, 3, 3),
        "model.vae.encoder.layers.2": (4, 16, 3, 3),
        "model.vae.decoder.layers.0": (16, 4, 3, 3),
        "model.vae.decoder.layers.2.conv.0": (16, 16, 3, 3),
        "model.vae.decoder.layers.3": (1, 16, 3, 3),
    }
    nodes = [
        helper.make_node("Conv", [f"x{i}", name], [f"x{i + 1}"], name=f"{name}/Conv", pads=[1] * 4)
        for i, name in enumerate(shapes)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 8, 8])
        for name, channels in (("x0", 3), ("x6", 1))
    ]
    weights = [numpy_helper.from_array(weight(rng, *shape), name) for name, shape in shapes.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))
    wide = ("model.vae.encoder.layers.1/Conv", "model.vae.decoder.layers.2.conv.0/Conv")
    assert nodes_to_quantise(ir.from_proto(model)) == [*wide]


def test_weights_in_a_file_of_their_own_on_both_sides(graph, rng):
    inputs = rng.standard_normal((2, 16, 8, 8)).astype(np.float32)
    inline, beside = graph.with_name("inline.onnx"), graph.with_name("beside.onnx")
    quantise(graph, inline, inputs)
    (graph.parent / "fp32").mkdir()
    with WeightFile(graph.parent / "fp32" / "model.data") as weights:
        save(ir.load(graph), graph.parent / "fp32" / "model.onnx", weights)
    with WeightFile(graph.parent / "model.data") as weights:
        quantise(graph.parent / "fp32" / "model.onnx", beside, inputs, weights)
    assert external_locations(beside) == {"model.data"}
    np.testing.assert_array_equal(run(inline, inputs[0]), run(beside, inputs[0]))


def test_ranges_come_from_real_frames_that_do_not_judge():
    frames, judges = calibration_frames(HW), reference_frames(HW)
    assert (frames.shape, frames.dtype) == ((4, *HW, 3), np.uint8)
    for frame in frames:
        assert frame.std() > 20
        assert all(np.abs(frame.astype(int) - judge).mean() > 5 for judge in judges)


def export(checkpoint, out, **options):
    notes = []
    bundle = export_bundle(
        open_checkpoint(checkpoint),
        out,
        frame_sizes=[HW],
        resolution=0,
        precision="int8",
        on_note=notes.append,
        **options,
    )
    return bundle, notes


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    """A checkpoint whose depth varies a little around 0.5: an error of its last map weighs less."""

    def fainter(tensors):
        return tensors | {"decoder.conv_out.weight": tensors["decoder.conv_out.weight"] * 0.005}

    folder = write_small(tmp_path_factory.mktemp("easy") / "depth")
    edit_weights(folder, "vae", fainter)
    return folder


def backends_here():
    """Which of those that run int8 bundles can do so here."""
    try:
        import_openvino()
        devices.precision_hint(None, devices.CPU, "int8")
    except UnavailableError:
        return ["onnxruntime"]
    return ["onnxruntime", "openvino"]


@pytest.mark.slow
def test_an_accurate_graph_comes_with_its_accuracy_and_speed(easy, tmp_path):
    bundle, notes = export(easy, tmp_path / "b")
    manifest = open_bundle(bundle.root).manifest
    assert (manifest.precision, manifest.checkpoint.note) == ("int8", "")
    assert "normalisation" in manifest.fp32_ops
    assert sorted(manifest.files) == ["model.onnx", "reference/32x48.npz"]
    entries = {entry.backend: entry for entry in manifest.verification}
    assert list(entries) == backends_here()
    assert manifest.notes == notes[: len(entries)]
    for note, (backend, entry) in zip(manifest.notes, entries.items(), strict=True):
        assert (entry.precision, entry.passed) == ("int8", True)
        assert 0 < entry.parity["abs_rel"] < 0.005
        assert entry.speed.keys() == {"fp32_ms", "int8_ms"}
        assert min(entry.speed.values()) > 0
        assert note.startswith(f"int8 with {backend} at 32x48: depth, AbsRel")
        assert f"{entry.speed['int8_ms']:.1f} ms where fp32 takes" in note
        (verdict,) = compare(bundle, backend)
        assert (verdict.precision, verdict.failures) == ("int8", [])
    assert list(weight_types(bundle.root / "model.onnx").values()).count(TensorProto.INT8) > 50


@pytest.mark.slow
def test_an_inaccurate_graph_is_refused_unless_it_is_accepted(small, tmp_path, trace_once):
    with pytest.raises(
        ParityError, match="int8 at 32x48 is outside .* no bundle .*`accept_accuracy=True`"
    ):
        export(small, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    bundle, notes = export(small, tmp_path / "b", accept_accuracy=True)
    assert not any(entry.passed for entry in bundle.manifest.verification)
    assert bundle.manifest.checkpoint.note == "int8 outside its accuracy limit"
    assert "OUTSIDE ITS LIMIT" in notes[0]
    (verdict,) = compare(bundle, "onnxruntime")
    assert verdict.failures


@pytest.mark.parametrize("missing", ["the package", "the CPU", "memory"])
def test_without_openvino_a_note_says_why(tmp_path, monkeypatch, missing):
    def refuse(*_):
        raise UnavailableError(f"{missing} is missing")

    name = {"the package": "import_openvino", "the CPU": "precision_hint", "memory": "compare"}
    for each in ("import_openvino", "openvino_core", "precision_hint", "compare"):
        monkeypatch.setattr(verified, each, lambda *_: [])
    root = write_plain_bundle(tmp_path / "b")
    assert verified.verify_in_openvino(root, Stages(quiet=True)) == ([], [])
    monkeypatch.setattr(verified, name[missing], refuse)
    said = [f"int8 was not judged with openvino: {missing} is missing"]
    assert verified.verify_in_openvino(root, Stages(quiet=True)) == ([], said)


def test_a_result_that_is_no_number_is_never_accepted():
    nan, zeros = np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), np.float32)
    limit, parity = LIMITS["onnxruntime", "int8"], measure_parity("depth", nan, zeros)
    verdict = Verdict((4, 4), "depth", "onnxruntime", "CPU", "int8", parity, limit)
    with pytest.raises(ParityError, match="holds NaN or infinity; no bundle was written$"):
        judged([verdict], accepted=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"engine": "tensorrt-rtx"}, "no plan is built from int8 graphs"),
        ({"targets": ["sm89"]}, "no plan is built from int8 graphs"),
    ],
)
def test_what_goes_with_int8_is_said_before_any_work(small, tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        export(small, tmp_path / "b", **options)
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_have_no_exception(small, tmp_path):
    with pytest.raises(UsageError, match="`accept_accuracy` is for int8"):
        export_bundle(open_checkpoint(small), tmp_path / "b", accept_accuracy=True)
