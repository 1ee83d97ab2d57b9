"""Model repositories: Triton's own schema reads them, and their graphs give what the bundle's give."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import FREE, TensorSpec
from e2e_deploy.errors import BundleError, E2EDeployError, UsageError
from e2e_deploy.export.triton.config import Word, graph_config, to_pbtxt, warm_up_shape
from tests.plain_bundle import (
    HW,
    add_variant,
    edit_manifest,
    plain_results,
    rehash,
    write_plain_bundle,
)

schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="no tritonclient")
text_format = pytest.importorskip("google.protobuf.text_format")


def config_of(model):
    return text_format.Parse((model.folder / "config.pbtxt").read_text(), schema.ModelConfig())


def run(model, frames):
    session = onnxruntime.InferenceSession(
        model.folder / "1/model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"frame": frames}), strict=True)), session


def fits_triton(model):
    """What Triton's backend for ONNX Runtime holds against a model that it loads."""
    config = config_of(model)
    _, session = run(model, warm_up(model, config))
    for tensor, told in zip(
        (*session.get_inputs(), *session.get_outputs()),
        (*config.input, *config.output),
        strict=True,
    ):
        shape = [side if isinstance(side, int) else -1 for side in tensor.shape]
        assert tensor.name == told.name
        assert shape == [*([-1] if config.max_batch_size else []), *told.dims]
    return config


def warm_up(model, config):
    """The warm-up request's input as Triton makes it."""
    (request,) = config.model_warmup
    given = request.inputs["frame"]
    data = (model.folder / "warmup" / given.input_data_file).read_bytes()
    shape = [*([request.batch_size] if config.max_batch_size else []), *given.dims]
    return np.frombuffer(data, np.uint8).reshape(shape)


def test_one_picture_at_a_time(tmp_path, rng):
    bundle = write_plain_bundle(tmp_path / "my bundle")
    (model,) = e2e.export_triton(bundle, tmp_path / "models", instances=3)
    assert (model.name, model.backend, model.frame_size) == ("my-bundle", "onnxruntime", HW)
    config = fits_triton(model)
    assert (config.name, config.backend, config.max_batch_size) == ("my-bundle", "onnxruntime", 0)
    assert config.input[0].data_type == schema.TYPE_UINT8
    assert list(config.input[0].dims) == [1, *HW, 3]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("depth", schema.TYPE_FP32, [1, *HW])
    ]
    assert not config.HasField("dynamic_batching")
    assert config.response_cache.enable is False
    assert config.HasField("response_cache")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, schema.ModelInstanceGroup.KIND_AUTO)
    assert config.parameters["note"].string_value == "untrained weights"
    frame = rng.integers(0, 256, (1, *HW, 3), dtype=np.uint8)
    found, _ = run(model, frame)
    np.testing.assert_allclose(found["depth"], plain_results(frame)["depth"], atol=1e-6)
    stored, results = e2e.open_bundle(bundle).reference(e2e.open_bundle(bundle).manifest.graphs[0])
    sent = warm_up(model, config)
    assert np.array_equal(sent[0], stored[0])
    np.testing.assert_allclose(run(model, sent)[0]["depth"][0], results["depth"][0], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_requests_can_be_joined_to_a_batch_and_the_results_are_the_graphs(tmp_path, rng, count):
    bundle = write_plain_bundle(tmp_path / "four", batch=4, task="geometry")
    (model,) = e2e.export_triton(bundle, tmp_path / "models")
    config = fits_triton(model)
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert list(config.input[0].dims) == [*HW, 3]
    assert config.model_warmup[0].batch_size == 4
    frames = rng.integers(0, 256, (count, *HW, 3), dtype=np.uint8)
    found, _ = run(model, frames)
    wanted = plain_results(frames, "geometry")
    assert found.keys() == wanted.keys()
    assert len(found) > 1
    for name, each in wanted.items():
        assert found[name].shape == each.shape
        np.testing.assert_allclose(found[name], each, atol=1e-6)
    onnx.checker.check_model(model.folder / "1/model.onnx")


def with_weights(root):
    """A bundle whose graph has its one weight in a file beside it."""
    graph = onnx.load(root / "model_24x32.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name == "scale":
            tensor.raw_data = np.array([255], np.float32).tobytes()
            del tensor.float_data[:]
            onnx.external_data_helper.set_external_data(tensor, "model.data", length=4)
            onnx.external_data_helper.save_external_data(tensor, str(root))
            tensor.ClearField("raw_data")
    onnx.save(graph, root / "model_24x32.onnx")
    for name in ("model_24x32.onnx", "model.data"):
        rehash(root, name)
    return root


@pytest.mark.parametrize("batch", [1, 2])
def test_weights_lie_beside_the_graph(tmp_path, rng, batch):
    bundle = with_weights(write_plain_bundle(tmp_path / "b", batch=batch))
    (model,) = e2e.export_triton(bundle, tmp_path / "models")
    assert sha256_of(model.folder / "1/model.data") == sha256_of(bundle / "model.data")
    frames = rng.integers(0, 256, (batch, *HW, 3), dtype=np.uint8)
    found, _ = run(model, frames)
    np.testing.assert_allclose(found["depth"], plain_results(frames)["depth"], atol=1e-6)


def test_a_model_for_each_frame_size_by_name(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b", sizes=(HW, (16, 16)))
    models = e2e.export_triton(bundle, tmp_path / "models", name="depth")
    assert [m.name for m in models] == ["depth_24x32", "depth_16x16"]
    for model in models:
        config = fits_triton(model)
        assert list(config.input[0].dims) == [1, *model.frame_size, 3]
    with pytest.raises(UsageError, match=r"`name` is '\.\./x'"):
        e2e.export_triton(bundle, tmp_path / "models", name="../x")
    with pytest.raises(UsageError, match="`instances` is 0"):
        e2e.export_triton(bundle, tmp_path / "models", instances=0)


def test_the_form_for_gpus_is_served_there(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    add_variant(bundle)
    edit_manifest(bundle, lambda m: m.update(precision="fp16"))
    (model,) = e2e.export_triton(bundle, tmp_path / "models")
    assert config_of(model).instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU


def with_plans(bundle, targets=("sm89", "sm120"), backend="tensorrt"):
    (bundle / "plans").mkdir(mode=0o755)
    entries = []
    for target in targets:
        name = f"plans/{target}.plan"
        (bundle / name).write_bytes(target.encode())
        (bundle / name).chmod(0o644)
        rehash(bundle, name)
        entries.append(
            {"file": name, "backend": backend, "version": "10.14.1", "target": target}
            | {"gpu": "", "cuda": 12, "frame_size": list(HW), "precision": "fp16"}
            | {"options": {}, "seconds": 0.0, "layers": {}}
        )
    edit_manifest(bundle, lambda m: m.update(plans=entries, precision="fp16"))
    (bundle / "manifest.json").chmod(0o644)
    bundle.chmod(0o755)


def test_plans_are_a_model_of_their_own_with_a_file_for_each_kind_of_gpu(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    with_plans(bundle)
    notes = []
    graph, plans = e2e.export_triton(bundle, tmp_path / "models", on_note=notes.append)
    assert (graph.name, plans.name, plans.backend) == ("b", "b_tensorrt", "tensorrt")
    config = config_of(plans)
    assert dict(config.cc_model_filenames) == {"8.9": "sm89.plan", "12.0": "sm120.plan"}
    assert (plans.folder / "1/sm120.plan").read_bytes() == b"sm120"
    assert config.default_model_filename == "sm89.plan"
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [1, *HW, 3])
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert config.parameters["TensorRT version"].string_value == "10.14.1"
    assert "plans of TensorRT 10.14.1" in notes[0]


def test_a_plan_that_others_can_write_is_not_handed_on(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    with_plans(bundle, targets=("sm89",))
    (bundle / "plans/sm89.plan").chmod(0o666)
    with pytest.raises(BundleError, match="can be written by other users"):
        e2e.export_triton(bundle, tmp_path / "models")
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["b"]


def test_plans_without_a_backend_there_are_named(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    with_plans(bundle, backend="tensorrt-rtx")
    notes = []
    assert len(e2e.export_triton(bundle, tmp_path / "models", on_note=notes.append)) == 1
    assert notes == ["plans of tensorrt-rtx were left out: Triton has no backend that loads them"]


def test_open_sides_of_a_core_graph(tmp_path):
    """What is told of it; exports of such graphs take long and are tested where they are made."""
    manifest = e2e.open_bundle(write_plain_bundle(tmp_path / "b")).manifest
    rgb = TensorSpec(name="rgb", dtype="float32", shape=[1, 3, FREE, FREE], meaning="")
    depth = TensorSpec(name="depth", dtype="float32", shape=[1, 1, FREE, FREE], meaning="")
    graph = replace(
        manifest.graphs[0],
        kind="core",
        multiple_of=64,
        frame_size=[128, 192],
        inputs=[rgb],
        outputs=[depth],
    )
    told = graph_config(
        *("m", manifest, graph),
        backend="onnxruntime",
        files={"": "model.onnx"},
        batches=False,
        kind="KIND_AUTO",
        instances=1,
    )
    config = text_format.Parse(to_pbtxt(told), schema.ModelConfig())
    assert config.input[0].data_type == schema.TYPE_FP32
    assert list(config.input[0].dims) == [1, 3, -1, -1]
    assert list(config.model_warmup[0].inputs["rgb"].dims) == [1, 3, 128, 192]
    assert warm_up_shape(graph) == ((1, 3, 128, 192), "float32")
    assert config.parameters["sides"].string_value == "multiples of 64"


def test_every_file_is_hashed_and_only_models_of_ours_are_replaced(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    models = tmp_path / "models"
    (models / "yours/1").mkdir(parents=True)
    (models / "yours/config.pbtxt").write_text("name: 'yours'")
    (model,) = e2e.export_triton(bundle, models)
    card = json.loads((model.folder / "e2e-deploy.json").read_text())
    there = {p.relative_to(model.folder).as_posix() for p in model.folder.rglob("*") if p.is_file()}
    assert there == {*card["files"], "e2e-deploy.json"}
    for name, entry in card["files"].items():
        assert entry["sha256"] == sha256_of(model.folder / name)
    assert card["outputs"]["depth"].startswith("affine-invariant depth, 0 = near")
    (again,) = e2e.export_triton(bundle, models, instances=2)
    assert config_of(again).instance_group[0].count == 2
    with pytest.raises(UsageError, match="is not a model that may be replaced"):
        e2e.export_triton(bundle, models, name="yours")
    (model.folder / "labels.txt").write_text("near\nfar")
    with pytest.raises(UsageError, match="holds 'labels.txt' besides"):
        e2e.export_triton(bundle, models)
    assert (models / "yours/config.pbtxt").read_text() == "name: 'yours'"


def test_neither_in_nor_over_a_bundle(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    other = shutil.copytree(bundle, tmp_path / "other")
    for place in (bundle, bundle / "models", other):
        before = sorted(p.name for p in place.parent.iterdir())
        with pytest.raises(UsageError, match="`triton` is"):
            e2e.export_triton(bundle, place)
        assert sorted(p.name for p in place.parent.iterdir()) == before


def test_a_damaged_bundle_leaves_nothing(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    opened = e2e.open_bundle(bundle)
    (bundle / "model_24x32.onnx").write_bytes(b"")
    with pytest.raises(BundleError):
        e2e.export_triton(opened, tmp_path / "models")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(E2EDeployError, match="could not be written"):
        e2e.export_triton(write_plain_bundle(tmp_path / "c"), file / "models")
    assert not list(tmp_path.glob("models/*"))


@pytest.mark.parametrize(
    "text", ["plain", 'a "quoted" \\ path', "línea\nand\ttab", "\x01\x7f", "距離", "\N{ROCKET}"]
)
def test_texts_are_read_back_as_they_are(text):
    config = {
        "name": text,
        "max_batch_size": 2,
        "response_cache": {"enable": True},
        "input": [{"name": text, "data_type": Word("TYPE_FP32"), "dims": [1, -1]}],
        "output": [],
        "parameters": [{"key": text, "value": {"string_value": text}}],
    }
    read = text_format.Parse(to_pbtxt(config), schema.ModelConfig())
    assert (read.name, read.max_batch_size, read.response_cache.enable) == (text, 2, True)
    assert (read.input[0].data_type, list(read.input[0].dims)) == (schema.TYPE_FP32, [1, -1])
    assert read.parameters[text].string_value == text
    assert not read.output
