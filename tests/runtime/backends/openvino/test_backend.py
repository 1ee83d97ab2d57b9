"""The backend made of OpenVINO: what it takes and refuses, its cache, memory, threads, and the way to stop it."""

import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import e2e_deploy as e2e
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import import_openvino
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.openvino import backend as backend_module
from e2e_deploy.runtime.backends.openvino import cache, compiled, devices, memory
from e2e_deploy.system.interrupts import WorkThread, stop_computation
from tests.plain_bundle import HW, edit_manifest, plain_depth, plain_model, rehash
from tests.runtime.backends.test_backends import bundle_with_weights, doubled, write_graph

pytest.importorskip("openvino_telemetry", reason="the package openvino is not installed")

GRAPH = "model_24x32.onnx"


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """The folder of compiled graphs, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "e2e-deploy" / "openvino"


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (*HW, 3), dtype=np.uint8)


def load(root, **options):
    return e2e.load(root, backend="openvino", **options)


def test_frames_are_read_and_results_written_where_they_lie(root, frame):
    with load(root) as engine:
        expected = plain_depth(frame)
        out = np.full(HW, np.nan, np.float32)
        assert engine(frame, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-6)
        frame.flags.writeable = False
        np.testing.assert_allclose(engine(frame), expected, rtol=1e-6)
        mirrored = frame[:, ::-1]
        np.testing.assert_allclose(engine(mirrored), plain_depth(mirrored), rtol=1e-6)
        kept = engine(frame)
        engine(255 - frame)
        np.testing.assert_allclose(kept, expected, rtol=1e-6)  # a later call leaves it alone
    with pytest.raises(UsageError, match="is closed"):
        engine(frame)


def test_several_threads_are_served_one_at_a_time(root, rng):
    frames = [rng.integers(0, 256, (*HW, 3), dtype=np.uint8) for _ in range(4)]
    wrong = []

    def work(engine, picture):
        for _ in range(20):
            if not np.allclose(engine(picture), plain_depth(picture), rtol=1e-6):
                wrong.append(picture)

    with load(root) as engine:
        threads = [threading.Thread(target=work, args=(engine, picture)) for picture in frames]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(root, threads):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with load(root, threads=threads) as engine:
        assert engine.backend.device == f"CPU, {min(threads, cores)} threads"
    with pytest.raises(UsageError, match="INFERENCE_NUM_THREADS of .* the same thing: give one of"):
        load(root, threads=threads, provider_options={"INFERENCE_NUM_THREADS": 2})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device": "cuda"}, 'not on cuda; use `device="cpu"`'),
        ({"session_options": {}}, "`session_options` has no effect with openvino"),
        ({"checkpoint": "x"}, "`checkpoint` has no effect with openvino; it is an option of torch"),
        ({"provider_options": {"NOPE": 1}}, "what this device has not: .*NOPE"),
        ({"provider_options": {"INFERENCE_NUM_THREADS": "x"}}, "what this device has not: Wrong"),
    ],
)
def test_an_option_that_cannot_be_used(root, options, why):
    with pytest.raises(UsageError, match=why) as caught:
        load(root, **options)
    assert "src/" not in str(caught.value)  # where in OpenVINO's source it was raised


class Machine:
    """OpenVINO's Core on another machine, as far as devices are asked for."""

    def __init__(self, units="FP32", **devices):
        self.units, self.available_devices = units, list(devices)
        self.names = {"CPU": "A processor"} | devices

    def get_property(self, device, name):
        return self.units.split() if name == "OPTIMIZATION_CAPABILITIES" else self.names[device]


class TestDevices:
    TWO = Machine(CPU="x", **{"GPU.0": "Iris", "GPU.1": "Arc", "NPU": "n"})

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            *(("auto", "CPU"), ("cpu", "CPU"), ("npu", "NPU")),
            *(("intel-gpu", "GPU.0"), ("intel-gpu:1", "GPU.1")),
        ],
    )
    def test_by_name(self, asked, found):
        assert devices.find_device(self.TWO, parse_device(asked)) == found

    def test_a_single_gpu_has_no_number(self):
        one = Machine(CPU="x", GPU="Iris")
        assert devices.find_device(one, parse_device("intel-gpu:0")) == "GPU"

    @pytest.mark.parametrize(
        ("machine", "asked"),
        [(TWO, "intel-gpu:2"), (Machine(CPU="x"), "npu"), (Machine(CPU="x"), "intel-gpu")],
    )
    def test_that_are_not_here(self, machine, asked):
        here = ", ".join(machine.available_devices)
        with pytest.raises(
            UnavailableError, match=f"{asked} was asked for, and .*, only {here}; .*`device`"
        ):
            devices.find_device(machine, parse_device(asked))

    def test_no_other_backend_reaches_them(self, root):
        for backend in ("onnxruntime", "torch", "tensorrt", "inductor"):
            with pytest.raises(UsageError, match=f"npu is a device of openvino, not of {backend}"):
                e2e.load(root, backend=backend, device="npu")
        with pytest.raises(UsageError, match="intel-gpu is a device of openvino"):
            e2e.verify_bundle(root, "onnxruntime", "intel-gpu")

    def test_auto_is_openvino_there(self, root, monkeypatch):
        monkeypatch.setattr(backend_module, "find_device", lambda *_: "CPU")
        with e2e.load(root, device="npu") as engine:
            assert engine.describe().startswith("openvino (")
            assert "npu was asked for" in engine.reason


class TestPrecision:
    @pytest.mark.parametrize(
        ("units", "device", "precision", "hint"),
        [
            *(("FP32", "CPU", "fp32", "f32"), ("FP32 FP16 BF16", "CPU", "fp32", "f32")),
            *(("FP32 FP16", "CPU", "fp16", "f32"), ("FP32 BF16", "CPU", "bf16", "bf16")),
            *(("FP32 FP16", "GPU", "fp16", "f16"), ("FP32 FP16", "GPU", "fp32", "f32")),
        ],
    )
    def test_is_the_bundles_own(self, units, device, precision, hint):
        assert devices.precision_hint(Machine(units, GPU="Arc"), device, precision) == hint

    @pytest.mark.parametrize(
        ("units", "device", "precision", "why"),
        [
            ("FP32", "CPU", "bf16", r"for bf16 \(AMX, AVX512-BF16 or AVX2-VNNI-2\) .*A processor"),
            ("FP16", "NPU", "fp32", "units for fp32 for this bundle, and n has none"),
            ("FP32 FP16", "GPU", "bf16", "units for bf16 for this bundle, and Arc has none"),
        ],
    )
    def test_without_units_for_it(self, units, device, precision, why):
        with pytest.raises(UnavailableError, match=why):
            devices.precision_hint(Machine(units, GPU="Arc", NPU="n"), device, precision)

    @pytest.mark.parametrize("flags", ["avx2 avx512_vnni", "avx2 avx_vnni", "amx_int8"])
    def test_int8_where_sums_do_not_saturate(self, monkeypatch, flags):
        monkeypatch.setattr(devices, "cpu_features", lambda: flags)
        assert devices.precision_hint(Machine(), "CPU", "int8") == "f32"

    @pytest.mark.parametrize("flags", ["avx2 avx512f avx512bw", "asimd", ""])
    def test_int8_elsewhere(self, monkeypatch, flags):
        """Without VNNI OpenVINO gave 24.7 for 48.8: ONEDNN_MAX_CPU_ISA=AVX2, ones times weights of 127 * 0.001."""
        monkeypatch.setattr(devices, "cpu_features", lambda: flags)
        with pytest.raises(UnavailableError, match="dot products .*AVX512-VNNI.*saturate; use `b"):
            devices.precision_hint(Machine(), "CPU", "int8")

    def test_int8_on_a_gpu(self):
        with pytest.raises(
            UsageError, match="int8 bundles are measured on CPUs, and GPU.0 is none"
        ):
            devices.precision_hint(Machine(), "GPU.0", "int8")


class TestAutoOfBf16:
    @pytest.fixture
    def bf16(self, root):
        edit_manifest(root, lambda value: value.update(precision="bf16"))
        return root

    def test_on_a_cpu_with_units(self, bf16, monkeypatch, frame):
        monkeypatch.setattr(backend_module, "precision_hint", lambda *_: "f32")
        with e2e.load(bf16, device="cpu") as engine:
            assert engine.backend.name == "openvino"
            assert engine.reason.endswith("ONNX Runtime has no bf16 on a CPU")
            np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)
        names = [v.backend for v in e2e.verify_bundle(bf16, device="cpu").verdicts]
        assert "openvino" in names

    def test_on_a_cpu_without(self, bf16, monkeypatch):
        def lacks(*_):
            raise UnavailableError("openvino needs a device with units for bf16")

        monkeypatch.setattr(backend_module, "precision_hint", lacks)
        with pytest.raises(UnavailableError, match="bf16 bundle is openvino's on a CPU, .* units"):
            e2e.load(bf16, device="cpu")

    def test_without_openvino(self, bf16, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[openvino\]'"):
            e2e.load(bf16, device="cpu")

    def test_verify_where_nothing_runs_it(self, bf16, monkeypatch):
        model = plain_model(HW)  # with what ONNX Runtime has not on a CPU
        model.graph.node[0].attribute[0].i = TensorProto.BFLOAT16
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                narrow = numpy_helper.to_array(tensor).astype(
                    helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
                )
                tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
        last = model.graph.node[-1].output
        model.graph.node.append(helper.make_node("Cast", ["narrow"], [last[0]], to=1))
        last[0] = "narrow"
        onnx.save(model, bf16 / GRAPH)
        rehash(bf16, GRAPH)
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(
            UnavailableError, match=r"nothing here runs this bf16 bundle.*e2e-deploy\[openvino\]"
        ):
            e2e.verify_bundle(bf16, device="cpu")
        with pytest.raises(UnavailableError, match='with `backend="openvino"` on a CPU with units'):
            e2e.verify_bundle(bf16, "onnxruntime", "cpu")


class TestCache:
    @pytest.fixture
    def compilations(self, monkeypatch):
        """The graphs that are read from their ONNX files."""
        openvino = import_openvino()
        read, seen = openvino.Core.read_model, []

        def counted(self, path, *rest):
            seen.append(path)
            return read(self, path, *rest)

        monkeypatch.setattr(openvino.Core, "read_model", counted)
        return seen

    def test_a_graph_is_compiled_once(self, root, cached, compilations, frame):
        for threads in (1, 2, None):
            with load(root, threads=threads) as engine:
                np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)
                assert threads != 1 or engine.backend.device == "CPU, 1 threads"
        assert len(compilations) == 1
        assert cached.stat().st_mode & 0o077 == 0
        with load(root, provider_options={"EXECUTION_MODE_HINT": "ACCURACY"}):
            assert len(compilations) == 2

    def test_another_graph_is_another_entry(self, root, compilations, frame):
        load(root).close()
        model = plain_model(HW)
        next(t for t in model.graph.initializer if t.name == "scale").float_data[0] = 510
        onnx.save(model, root / GRAPH)
        rehash(root, GRAPH)
        with load(root) as engine:
            np.testing.assert_allclose(engine(frame), plain_depth(frame) / 2, rtol=1e-6)
        assert len(compilations) == 2

    @pytest.mark.parametrize("at", [0, 35, -20])
    def test_a_changed_byte_is_noticed(self, root, cached, compilations, frame, at):
        load(root).close()
        (blob,) = cached.glob("*.blob")
        data = bytearray(blob.read_bytes())
        data[at] ^= 1
        blob.write_bytes(data)
        with load(root) as engine:
            np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)
        assert len(compilations) == 2

    def test_what_was_used_longest_ago_goes(self, cached, monkeypatch):
        monkeypatch.setattr(cache, "MAX_BYTES", 450)
        kept = cache.CompiledCache()
        for number, name in enumerate("abc"):
            kept.store(name, 7, lambda stream: stream.write(bytes(100)))
            os.utime(cached / f"{name}.blob", (number, number))
        assert kept.fetch("a").needed == 7  # and it is the newest now
        kept.store("d", 7, lambda stream: stream.write(bytes(100)))
        assert {path.stem for path in cached.glob("*")} == {"a", "c", "d"}
        kept.store("large", 7, lambda stream: stream.write(bytes(300)))
        assert kept.fetch("large") is None

    def test_a_folder_that_cannot_be_used(self, root, cached, frame):
        cached.parent.mkdir(parents=True)
        cached.symlink_to(root)
        with load(root) as engine:
            np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)
        assert not list(root.glob("*.blob"))

    def test_large_weights_are_not_copied_to_the_disk(self, root, cached, monkeypatch):
        monkeypatch.setattr(compiled, "LARGE_BYTES", 1)
        load(root).close()
        assert not cached.exists()


class TestGraphs:
    def test_weights_beside_the_graph(self, tmp_path, frame):
        with load(bundle_with_weights(tmp_path / "b")) as engine:
            np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)

    def test_that_it_refuses(self, root):
        model = plain_model(HW)
        model.graph.node[0].attribute[0].i = 99
        (root / GRAPH).write_bytes(model.SerializeToString())
        rehash(root, GRAPH)
        with pytest.raises(BundleError, match=f"OpenVINO cannot load {GRAPH}") as caught:
            load(root)
        assert "\n" not in str(caught.value)

    def test_that_is_not_the_one_described(self, root):
        onnx.save(plain_model((30, 32)), root / GRAPH)
        rehash(root, GRAPH)
        with pytest.raises(BundleError, match="is not the graph its manifest describes"):
            load(root)

    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_that_is_exchanged_after_the_bundle_was_opened(self, root, monkeypatch, when):
        opened = open_bundle(root)
        openvino = import_openvino()
        read = openvino.Core.read_model

        def exchange(self, path, *rest):
            (root / GRAPH).write_bytes((root / GRAPH).read_bytes() + b"")
            return read(self, path, *rest)

        if when == "meanwhile":
            monkeypatch.setattr(openvino.Core, "read_model", exchange)
        else:
            (root / GRAPH).write_bytes((root / GRAPH).read_bytes().replace(b"plain", b"Plain"))
        why = "changed while it was" if when == "meanwhile" else "is not the file that was exported"
        with pytest.raises(BundleError, match=why):
            load(opened)

    def test_more_memory_than_is_free(self, tmp_path, monkeypatch, frame):
        bundle = write_graph(tmp_path / "b", *doubled(12), row=np.array([-1]))
        load(bundle).close()
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 2**24)
        for _ in ("from the cache", "anew"):
            with pytest.raises(UnavailableError, match="needs more memory than is free here, "):
                load(bundle)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))

    def test_constants_without_end(self, tmp_path):
        """2**14 floats doubled seventeen times: OpenVINO computed 12 GiB of them in four minutes."""
        joins = [
            helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(16)
        ]
        last = helper.make_node("Concat", ["c16", "c16"], ["extra"], axis=0)
        bundle = write_graph(tmp_path / "b", *joins, last, c0=np.ones(2**14, np.float32))
        with pytest.raises(BundleError, match="bytes of constants while it is loaded"):
            load(bundle)


def test_a_computation_can_be_stopped():
    frame = reference_frames((480, 640), 1)[0]
    ended = []

    def work():
        try:
            while True:
                engine.backend(frame)
        except BaseException as error:
            ended.append(type(error))

    with load(READY_BUNDLE, threads=1) as engine:
        thread = WorkThread(work, "test")
        thread.start()
        assert any(stop_computation(thread) for _ in range(20))  # one may fall between two calls
        assert ended == [KeyboardInterrupt]
        assert np.isfinite(engine(frame)).all()  # the engine itself is none the worse


def test_what_fails_while_it_runs_is_one_sentence(root, frame):
    with load(root) as engine:

        class Fails:
            cancel = None

            def set_input_tensor(self, tensor):
                raise RuntimeError("Exception from src/x.cpp:1:\nthe device is gone\n\n")

        engine.backend._request = Fails()
        with pytest.raises(E2EDeployError, match=f"{GRAPH} fails in OpenVINO: the device is gone$"):
            engine(frame)


def test_the_floating_point_rules_of_the_process_are_left_alone(root, frame):
    denormal = np.full(1, 1e-40, np.float32)
    with load(root) as engine:
        engine(frame)
        assert (denormal * np.float32(0.5) > 0).all()


def test_importing_it_tells_nobody(tmp_path):
    """By itself it makes a client id in the user's home and sends an event."""
    code = (
        "import sys\nfrom e2e_deploy.packages import import_openvino\nopenvino = import_openvino()\n"
        "assert hasattr(openvino, 'convert_model')\n"
        "print(*(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == []
    assert list(tmp_path.iterdir()) == []
