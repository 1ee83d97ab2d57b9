"""A cluster of Ray that is there already, begun with a token on this machine; BULK_ADDRESS=1 runs it (minutes)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime.bulk.cluster import Asked, cluster
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import results_of, write_pictures

slow = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("BULK_ADDRESS") != "1", reason="BULK_ADDRESS=1 runs it"),
]
TOKEN = "a-token-of-this-test-" * 3


def free_port():
    """Below the range that Ray's workers take."""
    for port in range(7400, 9900, 7):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")


def surroundings(home, **others):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # On Linux, Ray begun with this listens on 127.0.0.1 alone, and does not look for another address of its own.
    kept |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | {"HOME": str(home)} | others


def bulk_of(inputs, out, address, surroundings):
    command = [sys.executable, "-m", "e2e_deploy", "bulk", str(inputs / "in"), "--out", str(out)]
    command += ["--bundle", str(inputs / "depth"), "--workers", "1", "--cores", "1", "--shard", "4"]
    return subprocess.run(
        [*command, "--address", address],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=surroundings,
    )


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The address of a cluster's head, and its token's file."""
    room = Path("/tmp") / f"e2e-head-{os.getpid()}"  # Ray's sockets have short names
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    port = free_port()
    program = Path(sys.executable).with_name("ray")
    command = [str(program), "start", "--head", "--block", "--num-cpus", "4"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", str(room)]
    command += ["--include-dashboard", "false", "--dashboard-agent-listen-port", str(port + 1)]
    given = surroundings(token.parent, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    with token.with_name("log").open("wb") as log:
        process = subprocess.Popen(
            command, env=given, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while "--block" not in token.with_name("log").read_text():
            assert process.poll() is None, token.with_name("log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", token
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(room)], check=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    write_pictures(root / "in", 20)
    write_plain_bundle(root / "depth")
    e2e.run(root / "in", root / "depth", out=root / "ref", formats="png16")
    return root


class TestWithACluster:
    pytestmark = slow

    def test_its_token_opens_it_and_it_stays_when_the_run_has_ended(self, head, inputs, tmp_path):
        address, token = head
        given = surroundings(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
        for name in ("one", "two"):
            done = bulk_of(inputs, tmp_path / name, address, given)
            assert done.returncode == 1, done.stderr  # as run, where pictures were left out
            assert results_of(tmp_path / name) == results_of(inputs / "ref")
            assert TOKEN not in done.stdout + done.stderr

    def test_without_its_token_it_is_a_sentence(self, head, inputs, tmp_path):
        address, _ = head
        done = bulk_of(inputs, tmp_path / "out", address, surroundings(tmp_path))
        assert done.returncode == 4
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: no cluster of Ray could be reached")
        assert "RAY_AUTH_TOKEN_PATH" in last


def test_where_nobody_listens_is_a_sentence_at_once():
    address, start = f"127.0.0.1:{free_port()}", time.monotonic()
    with (
        pytest.raises(UnavailableError, match=f"at {address}: nobody answers there"),
        cluster(address, Asked(1, 1, "cpu")),
    ):
        pass
    assert time.monotonic() - start < 60  # Ray itself asks again and again, for minutes


@pytest.mark.parametrize("address", ["127.0.0.1:x", "http://127.0.0.1", "head.example", ":6379"])
def test_what_is_no_address_is_a_sentence(address):
    from e2e_deploy.errors import UsageError

    with (
        pytest.raises(UsageError, match="expected auto, or host:port"),
        cluster(address, Asked(1, 1, "cpu")),
    ):
        pass
