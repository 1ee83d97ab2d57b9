import os
import subprocess
import sys

import pytest

from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import import_onnxruntime

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
