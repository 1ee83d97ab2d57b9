"""Engines that give depth and normals of one call: on the host, on the doubles of a GPU, and what is refused."""

import asyncio
import gc
import math

import numpy as np
import pytest
import torch

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.gpu.transfers import budget
from e2e_deploy.runtime.backends.layout import ALIGNMENT, Layout
from e2e_deploy.runtime.checks.parity_watch import ParityWatch
from e2e_deploy.runtime.checks.verify import compare, verify_bundle
from tests.fake_cuda import FakeDriver
from tests.fake_gpu import install
from tests.plain_bundle import HW, plain_results, write_plain_bundle
from tests.runtime.checks.test_verify import change_reference
from tests.runtime.fake_plans import add_plan
from tests.runtime.fake_plans import load as load_plan
from tests.runtime.packages import add_fake_package

NAMES = ["depth", "normals"]
FRAME_BYTES = HW[0] * HW[1] * 3


@pytest.fixture
def root(tmp_path):
    return write_plain_bundle(tmp_path / "both", task="geometry")


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (*HW, 3), dtype=np.uint8)


def agrees(given, frame, atol=1e-6):
    assert list(given) == NAMES
    for name, expected in plain_results(frame, "geometry").items():
        found = np.asarray(given[name])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=atol)
    return True


def test_a_call_gives_both_by_their_names(root, frame):
    with e2e.load(root) as engine:
        assert engine.outputs == ("depth", "normals")
        assert "depth and normals of frames of 24x32" in repr(engine)
        assert agrees(engine(frame), frame)
        assert agrees(engine(frame[None]), frame[None])
        assert agrees(engine.collect(engine.submit(frame)), frame)
        assert agrees(asyncio.run(engine.predict_async(frame)), frame)
        larger = engine.predict(np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1))
    assert [each.shape for each in larger.values()] == [(48, 64), (48, 64, 3)]
    np.testing.assert_allclose(np.linalg.norm(larger["normals"], axis=-1), 1, atol=1e-5)


def test_several_frames_at_once(tmp_path, rng):
    frames = rng.integers(0, 256, (2, *HW, 3), dtype=np.uint8)
    with e2e.load(write_plain_bundle(tmp_path / "b", task="geometry", batch=2)) as engine:
        assert agrees(engine(frames), frames)
        assert agrees(engine.predict(frames), frames)


def test_a_result_is_the_callers_own(root, frame):
    with e2e.load(root) as engine:
        first = engine(frame)
        kept = {name: each.copy() for name, each in first.items()}
        engine(255 - frame)
    for name, each in kept.items():
        np.testing.assert_array_equal(first[name], each)


def test_a_tensors_results_are_tensors(root, frame):
    with e2e.load(root) as engine:
        given = engine(torch.from_numpy(frame))
    assert all(isinstance(each, torch.Tensor) for each in given.values())
    assert agrees(given, frame)


def test_memory_of_the_callers_takes_one_result(root, frame):
    with e2e.load(root) as engine:
        with pytest.raises(UsageError, match="gives depth and normals, which .*: leave it out"):
            engine(frame, out=np.empty(HW, np.float32))
        assert agrees(engine(frame), frame)


def test_a_graph_with_other_outputs_than_its_manifest_lists(tmp_path, root):
    """Both graphs and manifests are whole, and belong to other bundles."""
    from tests.plain_bundle import rehash

    one = write_plain_bundle(tmp_path / "one")
    name = "model_24x32.onnx"
    (one / name).write_bytes((root / name).read_bytes())
    rehash(one, name)
    for backend in ("onnxruntime", "openvino"):
        try:
            with pytest.raises(BundleError, match="not the graph its manifest describes"):
                e2e.load(one, backend=backend)
        except e2e.UnavailableError as error:
            pytest.skip(str(error))


class TestOnTheGpu:
    def test_each_tensor_has_its_address_in_one_block(self, root, frame):
        driver = FakeDriver()
        add_plan(root)
        with load_plan(root, driver) as backend:
            layout = Layout.of(backend._graph, open_bundle(root).manifest.kinds)
            set_to = {c[1]: c[2] for c in driver.calls if c[0] == "set_tensor_address"}
            assert set_to["normals"] - set_to["depth"] == layout.places[1].offset
            assert layout.places[1].offset % ALIGNMENT == 0
            assert ("allocate", layout.num_bytes) in driver.calls
            given = layout.apart(backend(frame), 3)
            assert agrees(given, frame)
            assert backend.transfers.counts == budget(
                "host frame", frame_bytes=FRAME_BYTES, result_bytes=layout.num_bytes
            )
        assert driver.live == {}

    @pytest.mark.parametrize("backend", ["tensorrt", "inductor"])
    def test_an_engine_on_the_doubles(self, monkeypatch, tmp_path, root, rng, backend):
        driver = install(monkeypatch, tmp_path / "cache", libraries=(backend,))
        if backend == "tensorrt":
            add_plan(root)
        else:
            add_fake_package(root)
        frames = rng.integers(0, 256, (3, *HW, 3), dtype=np.uint8)
        with e2e.load(root, backend=backend, device="cuda") as engine:
            slots = [engine.submit(each) for each in frames[:2]]
            assert agrees(engine.collect(slots[0]), frames[0])
            assert agrees(engine.collect(slots[1]), frames[1])
            assert agrees(engine(frames[2]), frames[2])
        assert driver.live == {}

    @pytest.mark.parametrize("backend", ["tensorrt", "inductor"])
    def test_memory_of_the_gpu_gives_memory_of_the_gpu(
        self, monkeypatch, tmp_path, root, frame, backend
    ):
        driver = install(monkeypatch, tmp_path / "cache", libraries=(backend,))
        add_plan(root) if backend == "tensorrt" else add_fake_package(root)
        address = driver.allocate(FRAME_BYTES)
        driver.memory[address][:] = frame.ravel()
        with e2e.load(root, backend=backend, device="cuda") as engine:
            given = engine(RawArray(address, (*HW, 3), "uint8", (CUDA, 0)))
            assert [each.device for each in given.values()] == [(CUDA, 0)] * 2
            values = {
                name: driver.at(each.address, 4 * math.prod(each.shape))
                .view(np.float32)
                .reshape(each.shape)
                for name, each in given.items()
            }
            assert agrees(values, frame)
        depth = given.pop("depth")
        del given, values
        gc.collect()
        assert len(driver.live) == 2  # the frame, and the block that one of its results holds
        del depth
        gc.collect()
        assert set(driver.live) == {address}


class TestChecks:
    def test_every_output_has_a_verdict_of_its_own(self, root):
        verdicts = compare(open_bundle(root), "onnxruntime")
        assert [v.output for v in verdicts] == NAMES
        assert [v.failures for v in verdicts] == [[], []]
        assert [v.parity.mean_angle_deg is None for v in verdicts] == [True, False]

    @pytest.mark.parametrize("output", NAMES)
    def test_one_that_is_outside_is_named(self, root, output):
        change_reference(root, lambda results: results.__imul__(1.001), output)
        found = verify_bundle(root, "onnxruntime")
        assert [v.output for v in found.verdicts if v.failures] == [output]
        (failure,) = found.failures
        assert failure.startswith(f"onnxruntime fp32 {output}: relative error")

    def test_the_parity_watch_compares_both(self, root, frame):
        def load(engine):
            def reference(frame):
                exact = plain_results(frame, "geometry")
                return {name: each.astype(np.float32) for name, each in exact.items()}

            return reference

        watch = ParityWatch(1, load=load)
        with e2e.load(root) as engine:
            watch(engine, frame, engine(frame))
            report = watch.finish()
        assert (report.stored, report.live, report.outside) == (2, 1, 0)
        assert list(report.last) == NAMES
        assert "depth AbsRel" in report.words()
        assert "; normals 0.00 deg" in report.words()

    def test_the_watch_names_and_saves_what_is_outside(self, root, frame, tmp_path):
        def load(engine):
            def reference(frame):
                exact = plain_results(frame, "geometry")
                exact["normals"] = exact["normals"][:, ::-1]
                return {name: each.astype(np.float32) for name, each in exact.items()}

            return reference

        watch = ParityWatch(1, save_to=tmp_path / "worst.npz", load=load)
        with e2e.load(root) as engine:
            watch(engine, frame, engine(frame))
            report = watch.finish()
        assert report.outside == 1
        assert report.failures.startswith("normals: relative error")
        with np.load(report.saved) as stored:
            assert set(stored) == {
                "frame",
                *(f"{what}_{name}" for what in ("result", "reference") for name in NAMES),
            }
