import os
import subprocess
import sys

import pytest

from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import import_onnxruntime, import_rerun

RUN = """
import sys
from pathlib import Path
from e2e_deploy.packages import import_onnxruntime
ort = import_onnxruntime()
ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def run(code, home, *arguments, **changes):
    """Files under a home of its own that ``code`` leaves."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")} | changes
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_no_events_are_collected(tmp_path, depth_bundle):
    """What is collected is sent; nothing that is not collected can be."""
    assert run(RUN, tmp_path, str(depth_bundle / "model.onnx")) == []


def test_the_process_decides_for_itself_and_for_its_children(monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: os.environ["ORT_DISABLE_TELEMETRY"])
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert import_onnxruntime() == "1"
    assert "ORT_DISABLE_TELEMETRY" not in os.environ
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert import_onnxruntime() == "0"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match="pip install onnxruntime"):
        import_onnxruntime()


RECORD = """
import sys
import numpy as np
from e2e_deploy.packages import import_rerun
rerun = import_rerun()
recording = rerun.RecordingStream("test")
recording.save(sys.argv[1])
recording.log("a", rerun.Image(np.zeros((4, 4, 3), np.uint8)))
recording.disconnect()
"""


class TestRerun:
    def test_nothing_is_collected(self, tmp_path):
        home = tmp_path / "home"
        home.mkdir()
        assert run(RECORD, home, str(tmp_path / "a.rrd"), RERUN_ANALYTICS="on") == []
        assert (tmp_path / "a.rrd").stat().st_size > 0

    def test_the_process_decides_what_is_printed(self, monkeypatch):
        monkeypatch.setattr("importlib.import_module", lambda name: os.environ["RUST_LOG"])
        monkeypatch.delenv("RUST_LOG", raising=False)
        assert import_rerun() == "off"
        assert "RUST_LOG" not in os.environ
        monkeypatch.setenv("RUST_LOG", "debug")
        assert import_rerun() == "debug"
        assert os.environ["RUST_LOG"] == "debug"
