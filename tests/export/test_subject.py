import shutil
from types import MethodType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

import e2e_deploy as e2e
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import FREE
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.subject import plan_subjects
from e2e_deploy.kinds import KINDS
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.families import FAMILIES, TASKS
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel, SingleStepModel
from e2e_deploy.runtime.checks.verify import compare
from tests.plain_bundle import edit_manifest
from tests.small_checkpoint import NETWORK_STRIDE, STRIDE, write_small


def plan(sizes, *, stride=STRIDE, network_stride=NETWORK_STRIDE, family="marigold", **options):
    model = SimpleNamespace(
        stride=stride,
        result_stride=stride,
        network_stride=network_stride,
        family=FAMILIES[family],
        kinds=tuple(KINDS[name] for name in TASKS[options.pop("task", "depth")]),
    )
    model.plan = MethodType(SingleStepModel.plan, model)  # no weights are needed to plan
    return plan_subjects(sizes, model=model, **{"resolution": 0} | options)


def test_a_frame_graph_takes_frames_and_a_core_graph_what_the_network_sees():
    (frame,) = plan([(30, 42)], resolution=40)
    (core,) = plan([(30, 42)], resolution=40, kind="core")
    assert (frame.label, core.label) == ("30x42", "28x40")
    assert [spec.shape for spec in frame.entry.inputs] == [[1, 30, 42, 3]]
    assert [spec.shape for spec in core.entry.inputs] == [[1, 3, 28, 40]]
    assert [spec.shape for spec in core.entry.outputs] == [[1, 1, 28, 40]]
    frames = reference_frames((30, 42))
    assert frame.inputs(frames) is frames
    rgb = core.inputs(frames)
    assert (rgb.shape, rgb.dtype) == ((2, 3, 28, 40), np.float32)
    expected = FrameModel(torch.nn.Identity(), core.plan, ("depth",)).to_network(
        torch.from_numpy(frames)
    )
    np.testing.assert_array_equal(rgb, expected.numpy())
    assert -1 <= rgb.min() < -0.5 < 0.5 < rgb.max() <= 1


def test_padding_is_that_of_the_family_or_as_asked():
    def seen(resolution=768, **options):
        (subject,) = plan(
            [(1080, 1919)], stride=8, network_stride=64, resolution=resolution, **options
        )
        return subject.entry.processing_size

    assert seen() == [432, 768]
    assert seen(pad=64) == [448, 768]
    assert seen(family="e2e-ft") == [432, 768]
    assert seen(family="e2e-ft", resolution=767) == [431, 767]
    assert seen(family="e2e-ft", resolution=767, pad=8) == [432, 768]
    # its result has the size of what it takes, so a core graph is never cut
    assert seen(family="e2e-ft", resolution=767, kind="core") == [432, 768]
    with pytest.raises(UsageError, match="multiples of 12; give a multiple of 8"):
        seen(pad=12)


def test_open_sides_cannot_be_padded_otherwise():
    assert plan([(128, 192)], pad=32, kind="core", dynamic=True)
    with pytest.raises(UsageError, match="multiples of 64; they cannot be padded to 96"):
        plan([(128, 192)], pad=96, kind="core", dynamic=True)


def test_frames_that_reach_the_network_alike_are_one_core_graph():
    assert len(plan([(32, 40), (64, 80)], resolution=40)) == 2
    assert len(plan([(32, 40), (64, 80)], resolution=40, kind="core")) == 1


@pytest.mark.parametrize(
    ("sizes", "network_stride", "expected"),
    [
        ([(480, 640)], 8, ["512x640", "640x512"]),
        ([(200, 200)], 8, ["256x256", "256x320"]),
        ([(2048, 2048)], 64, ["2048x2048", "2048x1984"]),
        ([(150, 150)], 96, None),
        ([(300, 400)], 96, ["384x576", "576x384"]),
        ([(130, 130), (200, 140), (190, 190)], 8, ["192x192", "256x192"]),
    ],
)
def test_open_sides_are_multiples_and_are_proven_at_two_sizes(sizes, network_stride, expected):
    def planned():
        return plan(sizes, stride=8, network_stride=network_stride, kind="core", dynamic=True)

    if expected is None:
        with pytest.raises(UsageError, match="takes sides of 384 to 2048 px, and 192x192"):
            planned()
        return
    subjects = planned()
    assert [subject.label for subject in subjects] == expected
    assert {subject.entry.onnx for subject in subjects} == {"model.onnx"}
    for subject in subjects:
        assert subject.entry.inputs[0].shape == [1, 3, FREE, FREE]
        assert all(side % subject.entry.multiple_of == 0 for side in subject.entry.frame_size)


@pytest.mark.parametrize("size", [(64, 640), (640, 2100)])
def test_sizes_a_dynamic_graph_does_not_take(size):
    with pytest.raises(UsageError, match="takes sides of 128 to 2048 px"):
        plan([size], kind="core", dynamic=True)


@pytest.mark.parametrize("size", [(100, 100), (15, 640)])
def test_sizes_are_refused_before_a_checkpoint_is_loaded(small, tmp_path, monkeypatch, size):
    monkeypatch.setattr(
        "e2e_deploy.export.writing.load_model", lambda checkpoint: pytest.fail("loaded")
    )
    options = {"frame_sizes": [size], "resolution": 768, "graph": "core", "dynamic": True}
    with pytest.raises(UsageError, match="smaller|at least 16 px"):
        export_bundle(open_checkpoint(small), tmp_path / "b", **options)


def test_a_dynamic_graph_of_frames_is_refused_with_the_reason(small, tmp_path):
    with pytest.raises(UsageError, match='`dynamic` needs `graph="core"`'):
        export_bundle(open_checkpoint(small), tmp_path / "b", dynamic=True)
    assert list(tmp_path.iterdir()) == []


PLAIN_UNET = {  # its only attention is in the middle; tracing with open sides takes a second a layer
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("plain") / "depth", unet=PLAIN_UNET)


@pytest.fixture(scope="module")
def dynamic(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("dynamic") / "bundle"
    return export_bundle(
        open_checkpoint(plain),
        out,
        frame_sizes=[(128, 192)],
        resolution=0,
        graph="core",
        dynamic=True,
    )


@pytest.mark.slow
def test_one_dynamic_graph_equals_torch_at_every_size(dynamic, plain):
    manifest = dynamic.manifest
    assert [graph.frame_size for graph in manifest.graphs] == [[128, 192], [192, 128]]
    assert [entry.passed for entry in manifest.verification] == [True, True]
    assert sorted(manifest.files) == [
        "model.onnx",
        "reference/128x192.npz",
        "reference/192x128.npz",
    ]
    for verdict in compare(dynamic, "onnxruntime"):
        assert verdict.failures == []
        assert verdict.parity.relative > 0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(dynamic.file("model.onnx"), options)
    model = load_model(open_checkpoint(plain)).eval()
    for height, width in ((128, 128), (256, 192)):
        rgb = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.inference_mode():
            expected = model(rgb).numpy()
        (depth,) = session.run(None, {"rgb": rgb.numpy()})
        assert depth.shape == (1, 1, height, width)
        assert np.linalg.norm(depth - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.slow
def test_a_core_bundle_is_no_engine(dynamic):
    with pytest.raises(UsageError, match="core graph, .* and an engine takes frames; export with"):
        e2e.load(dynamic, device="cpu")
    with pytest.raises(UsageError, match="verified with onnxruntime or openvino, not with torch"):
        compare(dynamic, "torch")


@pytest.mark.slow
def test_a_manifest_that_says_other_sides_than_the_graph_has(dynamic, tmp_path):
    root = shutil.copytree(dynamic.root, tmp_path / "b")

    def change(manifest):
        for graph in manifest["graphs"]:
            height, width = graph["frame_size"]
            graph["multiple_of"] = 0
            graph["inputs"][0]["shape"] = [1, 3, height, width]
            graph["outputs"][0]["shape"] = [1, 1, height, width]

    edit_manifest(root, change)
    with pytest.raises(BundleError, match="is not the graph its manifest describes"):
        compare(open_bundle(root), "onnxruntime")


@pytest.mark.slow
def test_a_fixed_core_graph_of_normals(small_normals, tmp_path):
    bundle = export_bundle(
        open_checkpoint(small_normals),
        tmp_path / "b",
        frame_sizes=[(30, 48)],
        resolution=0,
        graph="core",
        precision="fp16",
    )
    (graph,) = bundle.manifest.graphs
    assert (graph.kind, graph.multiple_of, graph.frame_size) == ("core", 0, [30, 48])
    assert [spec.shape for spec in graph.outputs] == [[1, 3, 30, 48]]
    (verdict,) = compare(bundle, "onnxruntime")
    assert verdict.failures == []
    assert 0 < verdict.parity.mean_angle_deg < 0.5
    inputs, results = bundle.reference(graph)
    results = results["normals"]
    assert (inputs.shape, results.shape) == ((2, 3, 30, 48), (2, 3, 30, 48))
    np.testing.assert_allclose(np.linalg.norm(results, axis=1), 1, atol=1e-5)
