import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from onnx import helper

from e2e_deploy.system import interrupts
from e2e_deploy.system.interrupts import (
    WorkThread,
    interruptible,
    left_behind,
    stop_computation,
    stoppable,
)
from tests.plain_bundle import HW
from tests.runtime.backends.test_backends import write_graph


@pytest.fixture(autouse=True)
def _nothing_left_behind(monkeypatch):
    monkeypatch.setattr(interrupts, "_left_behind", [])


def press_ctrl_c(after_s):
    """SIGINT for this process, whatever who started it did with the signal."""
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.fixture
def ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield press_ctrl_c
    signal.signal(signal.SIGINT, before)


def test_what_it_returns_and_raises():
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_another_thread_computes_by_itself():
    names = []
    thread = threading.Thread(
        target=lambda: interruptible(lambda: names.append(threading.current_thread())), name="mine"
    )
    thread.start()
    thread.join()
    assert names == [thread]


def test_a_computation_that_can_be_stopped(ctrl_c):
    stopped = threading.Event()
    seen = []

    def compute():
        try:
            with stoppable(stopped.set):
                assert stopped.wait(30)
                raise RuntimeError("terminated")
        except KeyboardInterrupt:
            seen.append("as Ctrl-C")
            raise

    ctrl_c(0.3)
    with pytest.raises(KeyboardInterrupt):
        interruptible(compute)
    assert seen == ["as Ctrl-C"]
    assert not left_behind()
    assert interrupts._stops == {}


def test_one_that_cannot_is_left_behind(ctrl_c, monkeypatch):
    monkeypatch.setattr(interrupts, "PATIENCE_S", 0.1)
    go_on = threading.Event()
    ctrl_c(0.3)
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: go_on.wait(30))
    assert left_behind()
    go_on.set()


def test_an_error_of_its_own_stays_one():
    with pytest.raises(RuntimeError), stoppable(lambda: None):
        raise RuntimeError("mine")
    thread = WorkThread(lambda: None, "work")
    thread.start()
    assert stop_computation(thread)


def endless(root):
    """A bundle whose graph multiplies matrices of 768 rows 9000 times: minutes."""
    side = HW[0] * HW[1]
    nodes = [helper.make_node("Reshape", ["rgb", "column"], ["c"])]
    nodes += [helper.make_node("Transpose", ["c"], ["r"], perm=[1, 0])]
    nodes += [helper.make_node("MatMul", ["c", "r"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(9000)]
    nodes.append(helper.make_node("Identity", ["m9000"], ["extra"]))
    return write_graph(root, *nodes, column=np.array([side, -1]))


@pytest.mark.parametrize("verb", ["verify", "bench", "run"])
def test_ctrl_c_ends_an_endless_graph(tmp_path, verb):
    """In a process of its own, whose SIGINT is not what our starter made of it."""
    root = endless(tmp_path / "b")
    arguments = {
        "verify": ("verify", root, "--backend", "onnxruntime"),
        "bench": ("bench", root),
        "run": ("run", "test:?size=32x24", "--bundle", root, "--out", tmp_path / "out.mp4"),
    }[verb]
    code = (
        "import signal, sys, threading, os\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from e2e_deploy.runtime.backends.onnxruntime import backend as ort_backend\n"
        "call = ort_backend.OrtBackend.__call__\n"
        "def told(self, frame, out=None):\n"
        "    print('computing', flush=True)\n"
        "    return call(self, frame, out)\n"
        "ort_backend.OrtBackend.__call__ = told\n"
        "from e2e_deploy.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert told == "computing\n", error
    assert process.returncode == 130, error
    assert "Traceback" not in error
