"""``e2e-deploy serve`` as a process: what it prints, and how signals end it."""

import http.client
import signal
import subprocess
import sys
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.plain_bundle import write_plain_bundle

MAIN = "from e2e_deploy.cli import main; main()"


@pytest.fixture
def started(tmp_path):
    """started(*options): the process and the address that it printed."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    bundle = write_plain_bundle(tmp_path / "depth")
    processes = []

    def start(*options):
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "serve", bundle, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test that runs in the background has SIGINT ignored, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(started, number):
    process, url = started()
    split = urlsplit(url)
    assert (split.hostname, split.path) == ("127.0.0.1", "/v2/models/depth")
    with closing(http.client.HTTPConnection(split.hostname, split.port, timeout=20)) as client:
        client.request("POST", f"{split.path}/infer", b"{}")
        assert client.getresponse().status == 400
    process.send_signal(number)
    left, said = process.communicate(timeout=30)
    assert (process.returncode, left) == (0, "")
    first, note, last = said.splitlines()
    assert first.startswith("depth: depth of frames of 24x32, onnxruntime (")
    assert note == "note: untrained weights"
    assert last.startswith("0 requests answered in ")
    assert last.endswith("; refused: 1 request")


def test_a_port_that_is_taken(started, cli, tmp_path):
    _, url = started()
    port = str(urlsplit(url).port)
    code, stdout, stderr = cli("serve", str(tmp_path / "depth"), "--port", port)
    assert (code, stdout) == (4, "")
    assert stderr.startswith(f"error: the server cannot use port {port}: ")
    assert "name another one with --port, 0 takes any" in stderr
