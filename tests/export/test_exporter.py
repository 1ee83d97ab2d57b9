import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, E2EDeployError, ParityError, UnavailableError, UsageError
from e2e_deploy.export import writing
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.onnx import trace
from e2e_deploy.limits import Limit
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from tests.e2e_deploy.model.test_single_step import peer

SIZES, RESOLUTION = [(32, 48), (36, 32)], 40


@pytest.fixture(scope="module")
def several(small, trace_once, tmp_path_factory):
    """The small depth checkpoint for two frame sizes, processed at 26x40 and 40x35, padded to 4."""
    out = tmp_path_factory.mktemp("several") / "bundle"
    return export_bundle(open_checkpoint(small), out, frame_sizes=SIZES, resolution=RESOLUTION)


def test_the_manifest_tells_everything(depth_bundle, tiny_depth):
    manifest = open_bundle(depth_bundle).manifest
    (graph,) = manifest.graphs
    assert (manifest.task, manifest.family, manifest.precision) == ("depth", "marigold", "fp32")
    assert (graph.frame_size, graph.processing_size) == ([96, 128], [96, 128])
    assert (graph.onnx, graph.reference) == ("model.onnx", "reference/96x128.npz")
    assert [(i.name, i.dtype, i.shape) for i in graph.inputs] == [
        ("frame", "uint8", [1, 96, 128, 3])
    ]
    assert [(o.name, o.dtype, o.shape) for o in graph.outputs] == [
        ("depth", "float32", [1, 96, 128])
    ]
    assert manifest.checkpoint.sha256 == open_checkpoint(tiny_depth).sha256()
    assert manifest.checkpoint.note == "untrained weights"
    assert {"e2e-deploy", "python", "torch", "onnx"} <= set(manifest.versions)
    (entry,) = manifest.verification
    assert (entry.backend, entry.precision, entry.passed) == ("onnxruntime", "fp32", True)
    assert 0 <= entry.parity["relative"] < 1e-4
    assert sorted(manifest.files) == ["model.onnx", "reference/96x128.npz"]


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_the_graph_is_plain_valid_onnx_without_paths_of_this_machine(request, task):
    root = request.getfixturevalue(f"{task}_bundle")
    model = onnx.load(root / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    # Other domains only where the graph itself says in standard operators what the node is.
    assert {i.domain for i in model.opset_import} == {""} | {f.domain for f in model.functions}
    # Their rules differ between runtimes; resizing to and from the network is two constant matrices.
    # The only Resize is the decoder's nearest-neighbour doubling.
    for node in model.graph.node:
        if node.op_type == "Resize":
            assert {a.s for a in node.attribute if a.name == "mode"} == {b"nearest"}
    for (
        tensor
    ) in model.graph.initializer:  # the bytes of millions of weights hold any three letters
        tensor.ClearField("raw_data")
    data = model.SerializeToString()
    for word in (b"site-packages", b".py", str(root.parent.parent).encode()):
        assert word not in data


@pytest.mark.parametrize(("checkpoint", "resolution"), [("tiny_depth", 128), ("small_normals", 64)])
def test_the_engine_agrees_with_diffusers(request, photo, checkpoint, resolution):
    """Their last DDIM step is x0 itself, so the whole difference is float32 rounding."""
    task = checkpoint.partition("_")[2]
    expected = peer(request.getfixturevalue(checkpoint), task, photo, resolution=resolution)
    bundle = request.getfixturevalue(f"{task}_bundle")
    with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
        np.testing.assert_allclose(engine(photo), expected, atol=1e-4)
    assert np.ptp(expected) > 0.01


def test_several_sizes_share_one_weight_file(several):
    files = several.manifest.files
    assert sorted(files) == [
        "model.data",
        "model_32x48.onnx",
        "model_36x32.onnx",
        "reference/32x48.npz",
        "reference/36x32.npz",
    ]
    assert len(several.manifest.verification) == 2
    assert files["model.data"].bytes > max(files[f"model_{h}x{w}.onnx"].bytes for h, w in SIZES) / 2


def test_weights_beside_the_graph_change_nothing(
    several, small, tmp_path, monkeypatch, rng, trace_once
):
    frame = rng.integers(0, 256, (*SIZES[0], 3), dtype=np.uint8)

    def result(bundle):
        with e2e.load(bundle, device="cpu", frame_size=SIZES[0]) as engine:
            return engine(frame)

    def export(name):
        return export_bundle(
            open_checkpoint(small), tmp_path / name, frame_sizes=SIZES[:1], resolution=RESOLUTION
        )

    inline = export("inline")
    monkeypatch.setattr(trace, "MAX_INLINE_BYTES", 1000)
    beside = export("beside")
    assert "model.data" in beside.manifest.files
    assert "model.data" not in inline.manifest.files
    np.testing.assert_array_equal(result(inline), result(beside))
    np.testing.assert_array_equal(result(inline), result(several))


def test_a_frame_size_named_twice_is_one_graph(small, tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(trace, "trace", lambda *a, **k: traced.append(a) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_bundle(
            open_checkpoint(small),
            tmp_path / "b",
            frame_sizes=[(32, 32)] * 3,
            resolution=RESOLUTION,
        )
    assert len(traced) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"frame_sizes": [(8, 8)]}, "at least 16 px"),
        ({"frame_sizes": [(9000, 12000)]}, "108 Mpx"),
        ({"resolution": -1}, "must be 0"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(small, tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        export_bundle(open_checkpoint(small), tmp_path / "b", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_outside_its_limit_is_not_written(small, tmp_path, monkeypatch, trace_once):
    strict = {("onnxruntime", "fp32"): Limit(relative=0.0)}
    monkeypatch.setattr("e2e_deploy.runtime.checks.verify.LIMITS", strict)
    with pytest.raises(ParityError, match="outside its limit: relative error .* no bundle was"):
        export_bundle(
            open_checkpoint(small), tmp_path / "b", frame_sizes=SIZES[:1], resolution=RESOLUTION
        )
    assert list(tmp_path.iterdir()) == []


def test_something_else_in_the_way_is_said_before_any_work(small, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.setattr(writing, "load_model", lambda checkpoint: pytest.fail("too late"))
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        export_bundle(open_checkpoint(small), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("limit", [5_000, 100_000])
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES], ids=["inline", "shared"])
def test_a_full_disk_leaves_the_previous_bundle(
    small, several, tmp_path, full_disk, limit, sizes, trace_once
):
    out = shutil.copytree(several.root, tmp_path / "bundle")
    with (
        full_disk(limit),
        pytest.raises(E2EDeployError, match="could not be written: File too large; nothing was"),
    ):
        export_bundle(open_checkpoint(small), out, frame_sizes=sizes, resolution=RESOLUTION)
    assert open_bundle(out).manifest == several.manifest
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


KILLED = """
import os, pathlib, signal, sys
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.onnx import trace
from e2e_deploy.model.checkpoint import open_checkpoint
trace.trace = lambda *args, **names: os.kill(os.getpid(), signal.SIGKILL)
export_bundle(
    open_checkpoint(sys.argv[1]), pathlib.Path(sys.argv[2]), frame_sizes=[(32, 48)], resolution=40
)
"""


@pytest.mark.slow
def test_a_killed_export_leaves_no_bundle_and_the_next_one_works(small, tmp_path, trace_once):
    out = tmp_path / "bundle"
    done = subprocess.run([sys.executable, "-c", KILLED, small, out], check=False)
    assert done.returncode == -signal.SIGKILL
    (partial,) = tmp_path.iterdir()  # what it had written lies beside, under another name
    assert (partial / "reference/32x48.npz").exists()
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(out)
    with pytest.raises(BundleError, match="has no manifest"):
        open_bundle(partial)
    bundle = export_bundle(
        open_checkpoint(small), out, frame_sizes=SIZES[:1], resolution=RESOLUTION
    )
    assert open_bundle(out).manifest == bundle.manifest


@pytest.mark.slow
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_bf16_is_verified_in_torch_because_no_cpu_runs_it_in_onnx_runtime(task, tmp_path):
    checkpoint = open_checkpoint(bundled_checkpoint(task))
    bundle = export_bundle(
        checkpoint,
        tmp_path / "b",
        frame_sizes=[(64, 64)],
        resolution=64,
        precision="bf16",
        engine="onnx",
    )
    (entry,) = bundle.manifest.verification
    assert (entry.backend, entry.precision, entry.passed) == ("torch", "bf16", True)
    assert bundle.manifest.opset == 22
    assert 1e-4 < entry.parity["relative"] < 2e-2  # fp32 would be below
    types = {t.data_type for t in onnx.load(bundle.file("model.onnx")).graph.initializer}
    assert onnx.TensorProto.BFLOAT16 in types
    with pytest.raises(
        UnavailableError, match=r"no bf16 kernels for this device .*another precision"
    ):
        e2e.load(bundle, backend="onnxruntime", device="cpu")
