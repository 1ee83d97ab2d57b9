"""OpenVINO's one Core of a process: signals after engines end, threads, and engines that share it."""

import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import openvino_core
from tests.plain_bundle import HW, plain_depth, plain_model, rehash, write_plain_bundle

pytest.importorskip("openvino_telemetry", reason="the package openvino is not installed")

SIGNAL = """
import signal, sys
import e2e_deploy as e2e
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where it is, in the background
first, second = (e2e.load(sys.argv[1], backend="openvino") for _ in range(2))
first.close()
second.close()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
open_at_exit = e2e.load(sys.argv[1], backend="openvino")
"""


def test_ctrl_c_after_engines_were_closed_in_the_order_they_came(root):
    """With a Core each, the second put back the stack for signals that the first had freed: SIGSEGV."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL, str(root)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_is_one_for_threads_that_come_at_once(monkeypatch):
    made, starts = [], threading.Barrier(4)

    class Core:
        def __init__(self):
            made.append(self)
            threading.Event().wait(0.05)  # others come meanwhile

    class Package:
        pass

    Package.Core = Core
    monkeypatch.setattr("importlib.import_module", lambda name: Package)
    got = []

    def work():
        starts.wait()
        got.append(openvino_core())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == made * 4


def test_is_not_given_where_openvino_cannot_be_imported(monkeypatch):
    assert openvino_core() is openvino_core()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[openvino\]'"):
        openvino_core()


def properties(engine):
    compiled = engine.backend._compiled
    names = compiled.get_property("SUPPORTED_PROPERTIES")
    return {name: str(compiled.get_property(name)) for name in names}


def test_no_engine_changes_another(tmp_path, monkeypatch, rng):
    """Neither its properties nor its weights, which have the same names."""
    other = {
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "PERF_COUNT": True,
    }
    root, half = (write_plain_bundle(tmp_path / name) for name in ("root", "half"))
    model = plain_model(HW)
    next(t for t in model.graph.initializer if t.name == "scale").float_data[0] = 510
    onnx.save(model, half / "model_24x32.onnx")
    rehash(half, "model_24x32.onnx")
    frame = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)

    def load(bundle, cache, **options):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))  # compiled, not imported
        return e2e.load(bundle, backend="openvino", **options)

    with (
        load(root, "1") as before,
        load(half, "2", threads=1, provider_options=other) as changed,
        load(root, "3") as after,
    ):
        np.testing.assert_allclose(changed(frame), plain_depth(frame) / 2, rtol=1e-6)
        for engine in (before, after):
            np.testing.assert_allclose(engine(frame), plain_depth(frame), rtol=1e-6)
        usual, unusual = properties(before), properties(changed)
        assert properties(after) == usual
        assert all(unusual[name] != usual[name] for name in other)
