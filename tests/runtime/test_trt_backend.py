import json
import os
import shutil
import threading

import numpy as np
import pytest

from e2e_deploy.bundle import EngineEntry, open_bundle, parse_manifest, write_manifest
from e2e_deploy.engine_files import engine_name, graph_digest
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.hardware import cuda_device_count
from e2e_deploy.runtime.cuda_driver import Gpu
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.trt_backend import WARM_UP, TrtBackend, choose_engine, inspect_engine
from e2e_deploy.trt_api import TrtApi
from tests.fake_cuda import GPU, FakeDriver, fake_tensorrt
from tests.plain_bundle import HW, edit_manifest, plain_depth, rehash, write_plain_bundle

VERSION = "11.4.0"
IN_BYTES, OUT_BYTES = HW[0] * HW[1] * 3, HW[0] * HW[1] * 4


def add_engine(root, *, gpu=GPU.name, target="sm89", version=VERSION, cuda=13, backend="tensorrt"):
    """List an engine of the double for every graph; the plan itself says what the entry says."""
    manifest = parse_manifest((root / "manifest.json").read_text())
    for graph in manifest.graphs:
        name = engine_name(graph.frame_hw, "fp32", backend, version, target)
        height, width = graph.frame_hw
        facts = {
            "version": version,
            "target": target,
            "name": graph_digest(root, graph.onnx, lambda n: manifest.files[n].sha256),
            "tensors": [
                ["frame", "input", "uint8", [1, height, width, 3]],
                ["depth", "output", "float32", [1, height, width]],
            ],
        }
        (root / "engines").mkdir(exist_ok=True)
        (root / name).write_text(json.dumps(facts))
        manifest.engines.append(
            EngineEntry(
                file=name,
                backend=backend,
                version=version,
                target=target,
                gpu=gpu,
                cuda=cuda,
                frame_size=graph.frame_size,
                precision="fp32",
                options={},
                seconds=1.0,
                layers={},
            )
        )
    write_manifest(root, manifest)
    return root / name


@pytest.fixture
def root(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def engine(root):
    return add_engine(root)


def load(root, driver=None, *, version=VERSION, library="tensorrt", device="auto", **behaviour):
    driver = driver or FakeDriver()
    api = TrtApi(library, fake_tensorrt(version, driver, **behaviour))
    bundle = open_bundle(root)
    return TrtBackend(
        bundle, bundle.manifest.graphs[0], device, library=library, api=api, driver=driver
    )


def frames(rng, count=3):
    return rng.integers(0, 256, (count, *HW, 3), dtype=np.uint8)


@pytest.mark.usefixtures("engine")
class TestCalls:
    def test_results_are_right_and_their_own(self, root, rng):
        with load(root) as backend:
            pictures = frames(rng)
            results = [backend(picture) for picture in pictures]
            assert backend.cuda_graph
            assert backend.cuda_graph_reason == ""
            assert backend.gpu_ms == 1.5
        for picture, result in zip(pictures, results, strict=True):
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)

    def test_every_call_in_order_with_its_address_and_size(self, root, rng):
        driver = FakeDriver()
        backend = load(root, driver)
        calls = driver.calls
        stream = next(h for h, kind in driver.live.items() if kind == "stream")
        graph = next(h for h, kind in driver.live.items() if kind == "graph")
        (_, name_in, a), (_, name_out, b) = (c for c in calls if c[0] == "set_tensor_address")
        assert (name_in, name_out) == ("frame", "depth")
        assert a % 256 == 0 == b % 256
        frame = [
            ("copy_in", a, IN_BYTES, stream),
            ("execute", stream),
            ("copy_out", b, OUT_BYTES, stream),
        ]
        assert calls[1:] == [
            ("new_stream",),
            ("create_context",),
            ("new_event",),
            ("new_event",),
            ("allocate", IN_BYTES),
            ("set_tensor_address", "frame", a),
            ("allocate_pinned", IN_BYTES),
            ("allocate", OUT_BYTES),
            ("set_tensor_address", "depth", b),
            ("allocate_pinned", OUT_BYTES),
            *frame * WARM_UP,
            ("synchronise", stream),
            ("begin_capture", stream),
            *frame,
            ("end_capture", stream),
            ("launch", graph, stream),
            ("synchronise", stream),
        ]
        assert calls[0][0] == "deserialise"
        start, end = (h for h, kind in driver.live.items() if kind == "event")
        calls.clear()
        backend(frames(rng)[0])
        assert calls == [
            ("use",),
            ("record", start, stream),
            ("launch", graph, stream),
            ("record", end, stream),
            ("wait", end),
        ]
        calls.clear()
        backend.close()
        assert driver.names() == [
            "use",
            "synchronise",
            "destroy_graph",
            "synchronise",
            "free_pinned",
            "free",
            "free_pinned",
            "free",
            "destroy_event",
            "destroy_event",
            "delete_context",
            "destroy_stream",
            "delete_engine",
            "close",
        ]
        assert driver.live == {}
        backend.close()
        assert driver.names()[-1] == "close"

    def test_a_second_thread_makes_the_gpu_current(self, root, rng):
        driver = FakeDriver()
        with load(root, driver) as backend:
            driver.calls.clear()
            thread = threading.Thread(target=backend, args=(frames(rng)[0],))
            thread.start()
            thread.join()
            assert driver.names()[0] == "use"

    def test_it_says_what_it_is(self, root):
        with load(root) as backend:
            assert backend.device == "NVIDIA Fake 4090, sm89, one CUDA graph, 3 MiB for activations"
            assert backend.activation_bytes == 3 << 20

    def test_its_layers_are_counted(self, root):
        driver, bundle = FakeDriver(), open_bundle(root)
        api = TrtApi("tensorrt", fake_tensorrt(VERSION, driver))
        entry, layers = inspect_engine(
            bundle, bundle.manifest.graphs[0], "tensorrt", api=api, driver=driver
        )
        assert entry == bundle.manifest.engines[0]
        assert layers == {"layers": 1, "fp16": 1, "reformat": 0}
        assert driver.live == {}


@pytest.mark.usefixtures("engine")
class TestFallback:
    @pytest.mark.parametrize("step", ["begin_capture", "end_capture", "launch"])
    def test_a_graph_that_cannot_be_made_is_reported_and_results_stay_right(self, root, rng, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_STREAM_CAPTURE"})
        with load(root, driver) as backend:
            assert not backend.cuda_graph
            assert "STREAM_CAPTURE" in backend.cuda_graph_reason
            assert "no CUDA graph: the GPU reports" in backend.device
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    def test_a_run_that_fails_in_capture_ends_the_capture(self, root, rng):
        driver = FakeDriver()
        with load(root, driver, failing_runs={WARM_UP + 1}) as backend:
            assert "boom" in backend.cuda_graph_reason
            assert "end_capture" in driver.names()
            assert driver.captured is None
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    def test_rtx_is_asked_whether_the_stream_can_be_captured(self, root):
        add_engine(root, backend="tensorrt-rtx", gpu="")
        driver = FakeDriver()
        with load(root, driver, library="tensorrt-rtx", capturable=False) as backend:
            assert "cannot be captured" in backend.cuda_graph_reason
        assert "begin_capture" not in driver.names()
        with load(root, library="tensorrt-rtx", capturable=True) as backend:
            assert backend.cuda_graph

    def test_a_context_broken_by_the_capture_shows_at_load(self, root):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match=r"could not run the engine: .*boom"):
            load(root, driver, failing_runs={WARM_UP + 1, WARM_UP + 2})
        assert driver.live == {}


@pytest.mark.usefixtures("engine")
class TestFailures:
    @pytest.mark.parametrize(
        ("behaviour", "message"),
        [
            ({"no_address": True}, "did not take the address of frame"),
            ({"no_context": True}, "could not make an execution context, which takes 3 MiB"),
            ({"failing_runs": {1}}, "could not run the engine: .*boom"),
        ],
    )
    def test_everything_is_released(self, root, behaviour, message):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match=message):
            load(root, driver, **behaviour)
        assert driver.live == {}
        assert driver.names()[-1] == "close"

    @pytest.mark.parametrize("step", ["allocate", "allocate_pinned", "new_event", "synchronise"])
    def test_a_gpu_error_is_raised_and_everything_released(self, root, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_OUT_OF_MEMORY"})
        with pytest.raises(E2EDeployError, match="OUT_OF_MEMORY"):
            load(root, driver)
        assert driver.live == {}

    def test_an_unaligned_address_is_refused(self, root):
        driver = FakeDriver(alignment=64)
        with pytest.raises(E2EDeployError, match="256 does not divide"):
            load(root, driver)
        assert driver.live == {}

    def test_it_does_not_run_on_a_cpu(self, root):
        with pytest.raises(UsageError, match="GPU only"):
            load(root, device="cpu")


class TestMismatch:
    def test_no_engine(self, root):
        with pytest.raises(
            UnavailableError,
            match=r"no TensorRT engine for 24x32; build one with: e2e-deploy export",
        ):
            load(root)

    def test_an_engine_for_another_frame_size_does_not_count(self, tmp_path):
        root = write_plain_bundle(tmp_path / "two", sizes=[HW, (48, 64)])
        add_engine(root)
        edit_manifest(root, lambda m: m["engines"].pop(0))
        with pytest.raises(UnavailableError, match="no TensorRT engine for 24x32"):
            load(root)

    def test_another_version_says_both_and_the_command(self, engine, root):
        with pytest.raises(
            UnavailableError,
            match=r"built by TensorRT 11\.4\.0, and 10\.13\.2 is installed.*"
            r"--precision fp32 --frame-size 24x32 .*--engine tensorrt",
        ):
            load(root, version="10.13.2")

    def test_another_gpu_says_both_and_the_command(self, root):
        add_engine(root, target="sm86", gpu="NVIDIA Fake 3090")
        with pytest.raises(
            UnavailableError,
            match=r"are for sm86 NVIDIA Fake 3090, and this GPU is sm89 \(NVIDIA Fake 4090\)",
        ):
            load(root)

    def test_tensorrt_takes_no_engine_of_another_model_of_the_same_capability(self, root):
        add_engine(root, gpu="NVIDIA Fake 4060")
        with pytest.raises(UnavailableError, match="NVIDIA Fake 4060"):
            load(root)

    def test_rtx_names_the_target_in_the_command(self, root):
        add_engine(root, target="sm75", gpu="", backend="tensorrt-rtx")
        with pytest.raises(UnavailableError, match=r"--engine tensorrt-rtx --target sm89"):
            load(root, library="tensorrt-rtx")

    def test_an_old_driver(self, engine, root):
        driver = FakeDriver(Gpu(GPU.name, GPU.target, (12, 4)))
        with pytest.raises(
            UnavailableError, match=r"CUDA 13, and the one here supports CUDA 12\.4"
        ):
            load(root, driver)
        assert "deserialise" not in driver.names()

    @pytest.mark.parametrize(
        ("targets", "gpu", "chosen"),
        [
            (["sm80+", "sm89"], "sm89", "sm89"),
            (["sm89", "sm80+"], "sm120", "sm80+"),
            (["sm89", "sm80+"], "sm75", None),
            (["sm86"], "sm89", None),
        ],
    )
    def test_the_engine_for_this_gpu_is_preferred_to_the_portable_one(
        self, root, targets, gpu, chosen
    ):
        for target in targets:
            add_engine(root, target=target, gpu="", backend="tensorrt-rtx", version="1.7")
        bundle = open_bundle(root)
        found = (bundle, bundle.manifest.graphs[0], "tensorrt-rtx", "1.7", Gpu("G", gpu, (13, 0)))
        if chosen is None:
            with pytest.raises(UnavailableError):
                choose_engine(*found)
        else:
            assert choose_engine(*found).target == chosen

    def test_the_library_has_the_last_word_on_the_version(self, engine, root):
        """The manifest was forged to say another version."""
        edit_manifest(root, lambda m: m["engines"][0].update(version="11.5.0"))
        with pytest.raises(
            UnavailableError,
            match=r"TensorRT 11\.5\.0 does not load .*another version.*rebuild it with: e2e",
        ):
            load(root, version="11.5.0")

    def test_the_library_has_the_last_word_on_the_gpu(self, engine, root):
        edit_manifest(root, lambda m: m["engines"][0].update(target="sm86"))
        with pytest.raises(UnavailableError, match=r"incompatible device.*built for another GPU"):
            load(root, FakeDriver(Gpu(GPU.name, "sm86", (13, 1))))


class TestAttacks:
    def test_flipped_bytes(self, engine, root):
        data = bytearray(engine.read_bytes())
        data[10] ^= 1
        engine.write_bytes(data)
        with pytest.raises(BundleError, match="SHA-256 differs"):
            load(root)

    def test_flipped_after_the_bundle_was_checked(self, engine, root):
        bundle = open_bundle(root)
        data = bytearray(engine.read_bytes())
        data[10] ^= 1
        engine.write_bytes(data)
        driver = FakeDriver()
        with pytest.raises(BundleError, match="SHA-256 differs"):
            TrtBackend(
                bundle,
                bundle.manifest.graphs[0],
                library="tensorrt",
                api=TrtApi("tensorrt", fake_tensorrt(VERSION, driver)),
                driver=driver,
            )
        assert "deserialise" not in driver.names()
        assert driver.live == {}

    def test_truncated_with_a_forged_hash(self, engine, root):
        engine.write_bytes(engine.read_bytes()[:-20])
        rehash(root, engine.relative_to(root).as_posix())
        driver = FakeDriver()
        with pytest.raises(BundleError, match=r"truncated.*damaged.*rebuild it with"):
            load(root, driver)
        assert driver.live == {}

    def test_swapped_with_that_of_another_bundle(self, engine, root, tmp_path):
        """Same task, size, version and GPU, and the manifest's hash was forged: only its name tells."""
        other = write_plain_bundle(tmp_path / "other")
        onnx = other / "model_24x32.onnx"
        onnx.write_bytes(onnx.read_bytes() + b"\x12\x00")  # another graph: a producer of no name
        rehash(other, onnx.name)
        shutil.copy(add_engine(other), engine)
        rehash(root, engine.relative_to(root).as_posix())
        driver = FakeDriver()
        with pytest.raises(BundleError, match="was built from another graph than model_24x32"):
            load(root, driver)
        assert driver.live == {}

    def test_tensors_that_the_manifest_does_not_list(self, engine, root):
        facts = json.loads(engine.read_text())
        facts["tensors"][1][3] = [1, 999, 999]
        engine.write_text(json.dumps(facts))
        rehash(root, engine.relative_to(root).as_posix())
        with pytest.raises(BundleError, match=r"999.*the manifest lists"):
            load(root)

    @pytest.mark.parametrize("what", ["", "engines", "manifest.json", "engine"])
    @pytest.mark.parametrize("bit", [0o002, 0o020])
    def test_what_others_can_write(self, engine, root, what, bit):
        path = engine if what == "engine" else root / what
        path.chmod(path.stat().st_mode | bit)
        driver = FakeDriver()
        with pytest.raises(BundleError, match=r"can be written by other users.*chmod go-w"):
            load(root, driver)
        assert "deserialise" not in driver.names()

    def test_what_belongs_to_another_user(self, engine, root, monkeypatch):
        if os.geteuid() == 0:
            os.chown(engine, 12345, 12345)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(BundleError, match="belongs to another user"):
            load(root)

    def test_a_link_out_of_the_bundle(self, engine, root, tmp_path):
        outside = tmp_path / "outside.engine"
        engine.rename(outside)
        engine.symlink_to(outside)
        with pytest.raises(BundleError, match="reached through a link"):
            load(root)

    def test_a_path_out_of_the_bundle(self, engine, root):
        edit_manifest(root, lambda m: m["engines"][0].update(file="../outside.engine"))
        with pytest.raises(BundleError, match="not listed"):
            load(root)

    def test_an_engine_the_manifest_does_not_hash(self, engine, root):
        name = engine.relative_to(root).as_posix()
        edit_manifest(root, lambda m: m["files"].pop(name))
        with pytest.raises(BundleError, match="not listed"):
            load(root)


class TestThisMachine:
    @pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
    @pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
    def test_a_named_backend_that_is_not_here_is_one_sentence(self, root, library):
        with pytest.raises(UnavailableError) as caught:
            Engine.load(root, backend=library)
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
        assert "no NVIDIA GPU" in str(caught.value) or "not installed" in str(caught.value)


def _for_real(tmp_path, library):
    """A bundle with an engine for this GPU must give its stored reference back."""
    from e2e_deploy.export.engine_cache import EngineCache
    from e2e_deploy.export.engines import build_engines, current_gpu
    from e2e_deploy.limits import measure_parity
    from tests.small_graphs import drop_unread

    root = drop_unread(write_plain_bundle(tmp_path / "bundle"))
    manifest = parse_manifest((root / "manifest.json").read_text())
    targets = (current_gpu().target,) if library == "tensorrt-rtx" else ()
    built = build_engines(
        root, manifest, engine=library, targets=targets, cache=EngineCache(tmp_path / "cache")
    )
    manifest.engines.extend(built.entries)
    write_manifest(root, manifest)
    bundle = open_bundle(root)
    pictures, references = bundle.reference(bundle.manifest.graphs[0])
    with Engine.load(bundle, backend=library) as engine:
        assert engine.backend.cuda_graph, engine.backend.cuda_graph_reason
        for picture, reference in zip(pictures, references, strict=True):
            assert measure_parity("depth", engine(picture), reference).relative < 1e-4


@pytest.mark.gpu
@pytest.mark.trt
def test_tensorrt_for_real(tmp_path):
    _for_real(tmp_path, "tensorrt")


@pytest.mark.gpu
@pytest.mark.rtx
def test_tensorrt_rtx_for_real(tmp_path):
    _for_real(tmp_path, "tensorrt-rtx")
