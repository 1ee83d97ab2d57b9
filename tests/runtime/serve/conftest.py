"""Servers of bundles whose results are known."""

import threading

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.runtime.engine import Engine
from tests.plain_bundle import write_plain_bundle


@pytest.fixture(autouse=True, scope="session")
def _packages():
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(name, reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of depth, one frame at a time."""
    bundle = write_plain_bundle(tmp_path_factory.mktemp("serve") / "depth")
    with e2e.ModelServer(bundle, port=0, timeout_s=20, queue=8) as opened:
        yield opened


@pytest.fixture
def held(tmp_path, monkeypatch):
    """held(**options): a server whose engine waits until ``go`` is set, and notes the batches that it was given."""
    opened, go, calls, call = [], threading.Event(), [], Engine.__call__

    def slowly(self, frames, **named):
        calls.append(np.array(frames))
        assert go.wait(30)
        return call(self, frames, **named)

    def serve(task="depth", batch=1, **options):
        bundle = write_plain_bundle(tmp_path / "held", task=task, batch=batch)
        monkeypatch.setattr(Engine, "__call__", slowly)
        opened.append(e2e.ModelServer(bundle, port=0, **options))
        opened[0].go, opened[0].calls = go, calls
        return opened[0]

    yield serve
    go.set()
    for server in opened:
        server.close()
