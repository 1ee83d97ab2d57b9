"""What a subscriber in another process gets from Zenoh, decoded by another library."""

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.runtime.sinks.live.zenoh_sink import ZenohSink
from tests import zenoh_subscriber
from tests.live_inputs import CAMERA, HW, STAMP_NS, STEP_NS, geometry, opening_for, shot
from tests.ros_peer import peer

PREFIX = "robot/left/e2e_deploy"


def free_endpoint():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp/127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def subscriber(how, endpoint, folder):
    """Of everything under PREFIX; gives ``received()``: by key, the messages in order."""
    folder.mkdir()

    def received():
        found = {}
        for file in sorted(folder.glob("[0-9]*")):
            _, key, encoding = file.name.replace("~", "/").split(" ")
            kind = encoding.removeprefix("application/cdr;")
            found.setdefault(key, []).append(peer(file.read_bytes(), kind))
        return found

    program = [sys.executable, zenoh_subscriber.__file__, how, endpoint, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(program, **pipes, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield received
        finally:
            process.stdin.close()
            process.wait(30)


def write_until(sink, rng, received, keys, *, metric=False):
    """Write frames until somebody has a message of each key; those that were written, by their stamps."""
    written = {}
    for index in range(600):
        frame, (results, facts) = shot(rng, index), geometry(rng, metric=metric)
        sink.write(frame, results, facts)
        written[frame.stamp_ns] = frame, results
        time.sleep(0.05)
        if {f"{PREFIX}/{key}" for key in keys} <= set(received()):
            return written
    raise AssertionError(f"of {keys} only {set(received())} came")


def test_a_subscriber_gets_the_messages_of_ros(tmp_path, rng):
    endpoint = free_endpoint()
    sink = ZenohSink(f"zenoh:?listen={endpoint}", opening_for(tmp_path, is_metric=True))
    sink.write(shot(rng), *geometry(rng, metric=True))  # nobody is there; the metadata wait
    with subscriber("connect", endpoint, tmp_path / "got") as received:
        keys = {"metadata", "image", "depth", "normals", "camera_info", "points"}
        written = write_until(sink, rng, received, keys, metric=True)
        got = received()
        assert sink.close() == []
    assert set(got) == {f"{PREFIX}/{key}" for key in keys}
    for message in got[f"{PREFIX}/depth"]:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert (stamp - STAMP_NS) % STEP_NS == 0
        assert (message.header.frame_id, message.encoding) == ("left_optical", "32FC1")
        depth = np.frombuffer(message.data, np.float32).reshape(HW)
        np.testing.assert_array_equal(depth, written[stamp][1]["depth"])  # NaN, +Inf and -Inf too
    info = got[f"{PREFIX}/camera_info"][0]
    assert tuple(info.k) == CAMERA.k
    assert info.header.frame_id == "left_optical"
    image = got[f"{PREFIX}/image"][0]
    frame, _ = written[image.header.stamp.sec * 10**9 + image.header.stamp.nanosec]
    assert image.encoding == "rgb8"
    np.testing.assert_array_equal(np.frombuffer(image.data, np.uint8), frame.rgb.ravel())
    told = json.loads(got[f"{PREFIX}/metadata"][0].data)
    assert [each["metric"] for each in told["results"]] == [True, False]


def test_without_a_scale_there_is_no_topic_of_metres(tmp_path, rng):
    endpoint = free_endpoint()
    with subscriber("listen", endpoint, tmp_path / "got") as received:
        sink = ZenohSink(f"zenoh:{endpoint}", opening_for(tmp_path))
        write_until(sink, rng, received, {"depth_affine", "metadata"})
        sink.close()
        got = received()
    assert f"{PREFIX}/depth" not in got
    assert f"{PREFIX}/points" not in got


def test_subscribers_come_and_go(tmp_path, rng):
    """One that is killed ends nothing, and the next one gets what comes from then on."""
    endpoint = free_endpoint()
    sink = ZenohSink(f"zenoh:?listen={endpoint}", opening_for(tmp_path))
    for name in ("first", "second"):
        with subscriber("connect", endpoint, tmp_path / name) as received:
            write_until(sink, rng, received, {"depth_affine", "metadata"})
    sink.write(shot(rng), *geometry(rng))
    assert sink.close() == []


def test_a_prefix(tmp_path, rng):
    sink = ZenohSink(f"zenoh:?listen={free_endpoint()}&prefix=/other", opening_for(tmp_path))
    sink.write(shot(rng), *geometry(rng))
    keys = {str(publisher.key_expr) for publisher in sink._publishers.values()}
    sink.close()
    assert keys == {
        f"other/{n}" for n in ("metadata", "image", "depth_affine", "normals", "camera_info")
    }


def sockets():
    """What this process listens at, TCP and UDP: {(protocol, address)}."""
    found = set()
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except OSError:
            continue
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/net/{protocol}")
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                words = line.split()
                is_listening = words[3] == "0A" or protocol.startswith("udp")
                if is_listening and f"socket:[{words[9]}]" in inodes:
                    found.add((protocol, words[1].partition(":")[0]))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's table of sockets")
def test_it_listens_on_this_machine_alone_and_looks_for_nobody(tmp_path):
    before = sockets()
    sink = ZenohSink(f"zenoh:?listen={free_endpoint()}", opening_for(tmp_path))
    opened = sockets() - before
    sink.close()
    assert opened <= {("tcp", "0100007F")}  # 127.0.0.1, as the kernel writes it
    assert sockets() == before


def test_one_that_connects_listens_nowhere(tmp_path):
    endpoint = free_endpoint()
    with subscriber("listen", endpoint, tmp_path / "got"):
        before = sockets()
        sink = ZenohSink(f"zenoh:{endpoint}", opening_for(tmp_path))
        assert sockets() == before
        sink.close()


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("zenoh:7447", "names no endpoint of Zenoh"),
        ("zenoh:tcp/host", "names no endpoint of Zenoh"),
        ("zenoh:serial/dev:1", "names no endpoint of Zenoh"),
        ("zenoh:?listen=127.0.0.1:1", "names no endpoint of Zenoh"),
        ("zenoh:?scouting=yes", "scouting is on or off"),
        ("zenoh:?prefix=no/slash", "the topics' prefix is 'no/slash'"),
        ("zenoh:?domain=0", "it may have prefix=..., listen=..., scouting=..., each once"),
    ],
)
def test_no_such_address(tmp_path, out, why):
    with pytest.raises(UsageError, match=why):
        ZenohSink(out, opening_for(tmp_path))


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.live.zenoh_sink.PATIENCE_MS", 500)
    endpoint = free_endpoint()
    with pytest.raises(UnavailableError, match=f"nobody answers at {endpoint} within") as caught:
        ZenohSink(f"zenoh:{endpoint}", opening_for(tmp_path))
    assert ".cargo" not in str(caught.value)


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp/127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"cannot listen at {endpoint}") as caught:
            ZenohSink(f"zenoh:?listen={endpoint}", opening_for(tmp_path))
    assert "\n" not in str(caught.value)
    assert ".cargo" not in str(caught.value)


def test_opened_and_closed_often(tmp_path, rng):
    opening, endpoint = opening_for(tmp_path), free_endpoint()
    for _ in range(50):
        sink = ZenohSink(f"zenoh:?listen={endpoint}", opening)
        sink.write(shot(rng), *geometry(rng))
        sink.close()


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zenoh", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[robotics\]'"):
        ZenohSink("zenoh:", opening_for(tmp_path))
