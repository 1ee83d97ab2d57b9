"""Graphs that take several pictures at once: each of them as if it were alone."""

import numpy as np
import onnxruntime
import pytest
from torch import nn

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.reference import in_batches
from e2e_deploy.runtime.checks.verify import compare
from tests.export.test_subject import plan
from tests.plain_bundle import HW, write_plain_bundle

SIZE = (32, 48)


def export(checkpoint, out, **options):
    return e2e.export_bundle(
        checkpoint, out, frame_sizes=[SIZE], resolution=0, engine="onnx", **options
    )


def session(bundle):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(bundle.file("model.onnx"), options)


@pytest.fixture(scope="module")
def pair(small, tmp_path_factory):
    """The small depth checkpoint as a graph of two pictures."""
    return export(small, tmp_path_factory.mktemp("pair") / "b", batch=2)


def test_every_picture_is_in_a_batch_and_batches_are_full():
    assert in_batches(2, 1) == [[0], [1]]
    assert in_batches(2, 2) == [[0, 1]]
    assert in_batches(3, 2) == [[0, 1], [2, 0]]
    assert in_batches(1, 3) == [[0, 0, 0]]
    assert in_batches(2, 5) == [[0, 1, 0, 1, 0]]


def test_the_manifest_says_so_and_the_reference_holds_single_pictures(pair):
    (graph,) = pair.manifest.graphs
    assert graph.batch == 2
    assert graph.inputs[0].shape == [2, *SIZE, 3]
    assert graph.outputs[0].shape == [2, *SIZE]
    frames, results = pair.reference(graph)
    results = results["depth"]
    assert (frames.shape, results.shape) == ((2, *SIZE, 3), (2, *SIZE))
    assert [entry.passed for entry in pair.manifest.verification] == [True]


def test_a_picture_in_a_batch_is_like_alone(pair, small, tmp_path, rng):
    alone = session(export(small, tmp_path / "one"))
    frames = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    expected = np.concatenate([alone.run(None, {"frame": f[None]})[0] for f in frames])
    for indices in ([0, 1], [1, 0], [2, 2]):
        (got,) = session(pair).run(None, {"frame": frames[indices]})
        np.testing.assert_allclose(got, expected[indices], atol=2e-6)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_backends_are_verified_with_whole_batches(pair, backend):
    (verdict,) = compare(pair, backend, "cpu")
    assert verdict.failures == []
    assert verdict.parity.relative < 1e-5


def test_a_model_for_triton_takes_as_many_as_there_are(pair, tmp_path, rng):
    """Of a real network, whose reshapes have the batch fixed inside."""
    (model,) = e2e.export_triton(pair, tmp_path / "models")
    opened = onnxruntime.InferenceSession(model.folder / "1/model.onnx")
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    for given, filled in ((frames, frames), (frames[1:], frames[[1, 1]])):
        (got,) = opened.run(None, {"frame": given})
        (wanted,) = session(pair).run(None, {"frame": filled})
        np.testing.assert_array_equal(got, wanted[: len(given)])


def test_a_place_in_the_batch_that_is_wrong_is_seen(tmp_path):
    root = write_plain_bundle(tmp_path / "b", batch=3)
    bundle = open_bundle(root)
    seen = []
    (verdict,) = compare(bundle, "onnxruntime", watch=lambda *given: seen.append(given[3:]))
    assert verdict.failures == []
    assert [frame.shape for frame, _, _ in seen] == [(*HW, 3)] * 3
    (graph,) = bundle.manifest.graphs
    np.testing.assert_array_equal(seen[2][0], bundle.reference(graph)[0][0])


def test_torch_runs_batches_where_no_runtime_can():
    (subject,) = plan([(32, 40)], task="normals", kind="core", batch=3)
    inputs = np.random.default_rng(0).random((4, 3, 32, 40), dtype=np.float32)
    shapes = []
    model = nn.Identity()
    model.register_forward_hook(lambda module, given, result: shapes.append(result.shape[0]))
    np.testing.assert_array_equal(subject.run(model, inputs, 3)["normals"], inputs)
    assert shapes == [3, 3]
    assert subject.example().shape == (3, 3, 32, 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"graph": "core"}, ([3, 3, *SIZE], [3, 3, *SIZE])),
        ({"precision": "fp16"}, ([3, *SIZE, 3], [3, *SIZE, 3])),
        ({"precision": "int8", "accept_accuracy": True}, ([3, *SIZE, 3], [3, *SIZE, 3])),
    ],
)
def test_every_kind_of_graph_takes_three_at_once(small_normals, tmp_path, options, shapes):
    bundle = export(small_normals, tmp_path / "b", batch=3, **options)
    (graph,) = bundle.manifest.graphs
    assert (graph.inputs[0].shape, graph.outputs[0].shape) == shapes
    entries = bundle.manifest.verification
    assert all(entry.passed for entry in entries) or bundle.manifest.precision == "int8"
