"""What a client of the WebSocket gets, decoded by another library; clients that come late, are slow or leave."""

import json
import os
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from mcap.records import Schema
from mcap_ros2.decoder import DecoderFactory
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.runtime.sinks.live.foxglove_sink import FoxgloveSink, _Listener
from e2e_deploy.runtime.sources.source import SourceFrame
from tests.live_inputs import CAMERA, HW, STAMP_NS, STEP_NS, geometry, opening_for, shot

PREFIX = "/robot/left/e2e_deploy"
DATA = 1  # the first byte of a message with data


class Client:
    """A client of the protocol foxglove.sdk.v1; what it does not read waits with the server."""

    def __init__(self, url, queue=None):
        self._open = ExitStack()
        self.socket = self._open.enter_context(
            connect(url, subprotocols=["foxglove.sdk.v1"], max_size=None, max_queue=queue)
        )
        assert json.loads(self.socket.recv(10))["op"] == "serverInfo"
        self.channels = {}

    def next(self, seconds=10.0):
        """The next message with data, as (topic, log time, message); channels are taken note of."""
        while True:
            got = self.socket.recv(seconds)
            if isinstance(got, bytes):
                assert got[0] == DATA
                number, stamp = struct.unpack_from("<IQ", got, 1)
                channel = self.channels[number]
                return channel["topic"], stamp, self.decoded(channel, got[13:])
            self.note(got)

    def note(self, text):
        told = json.loads(text)
        for channel in told.get("channels", ()):
            self.channels[channel["id"]] = channel

    def decoded(self, channel, data):
        schema = Schema(
            id=1,
            name=channel["schemaName"],
            encoding=channel["schemaEncoding"],
            data=channel["schema"].encode(),
        )
        return DecoderFactory().decoder_for(channel["encoding"], schema)(data)

    def subscribe(self, *names):
        """Wait until all of these topics are offered, and subscribe."""
        while {f"{PREFIX}/{name}" for name in names} - {c["topic"] for c in self.channels.values()}:
            self.note(self.socket.recv(10))
        wanted = [n for n, c in self.channels.items() if c["topic"].rpartition("/")[2] in names]
        # A subscription has the channel's own number, so that messages name the channel
        subscriptions = [{"id": number, "channelId": number} for number in wanted]
        self.socket.send(json.dumps({"op": "subscribe", "subscriptions": subscriptions}))

    def close(self):
        self._open.close()


@pytest.fixture
def sink(tmp_path):
    sink = FoxgloveSink("foxglove:0", opening_for(tmp_path))
    yield sink
    sink.close()


@pytest.fixture
def metric_sink(tmp_path):
    sink = FoxgloveSink("foxglove:0", opening_for(tmp_path, is_metric=True))
    yield sink
    sink.close()


@contextmanager
def frames_for(sink, rng, *, metric=False):
    """Writes frames until the block ends; gives what was written by stamp."""
    written, done = {}, threading.Event()

    def write():
        index = 0
        while not done.wait(0.02):
            frame, (results, facts) = shot(rng, index), geometry(rng, metric=metric)
            written[frame.stamp_ns] = frame, results
            sink.write(frame, results, facts)
            index += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        done.set()
        thread.join()


def test_a_client_gets_the_messages_of_ros(metric_sink, rng):
    names = ["image", "depth", "normals", "camera_info", "points", "metadata"]
    got = {}
    with frames_for(metric_sink, rng, metric=True) as written:
        client = Client(metric_sink.url)
        client.subscribe(*names)
        while len(got) < len(names):
            topic, log_time, message = client.next()
            got[topic.removeprefix(f"{PREFIX}/")] = log_time, message
        client.close()
    for name, (log_time, message) in got.items():
        assert (log_time - STAMP_NS) % STEP_NS == 0
        if name != "metadata":
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == log_time
            assert message.header.frame_id == "left_optical"
    log_time, depth = got["depth"]
    pixels = np.frombuffer(depth.data, np.float32).reshape(HW)
    np.testing.assert_array_equal(pixels, written[log_time][1]["depth"])  # NaN, +Inf and -Inf too
    assert depth.encoding == "32FC1"
    log_time, image = got["image"]
    np.testing.assert_array_equal(
        np.frombuffer(image.data, np.uint8), written[log_time][0].rgb.ravel()
    )
    assert tuple(got["camera_info"][1].k) == CAMERA.k
    assert (got["points"][1].height, got["points"][1].width) == HW
    assert json.loads(got["metadata"][1].data)["results"][0]["metric"] is True


def test_each_who_comes_late_gets_what_is_latched(sink, rng):
    with frames_for(sink, rng):
        clients = [Client(sink.url) for _ in range(3)]
        for client in clients:
            client.subscribe("metadata")
            topic, _, message = client.next()
            assert topic == f"{PREFIX}/metadata"
            assert json.loads(message.data)["results"][0]["metric"] is False
        for client in clients:
            client.close()


def test_a_frame_between_the_news_of_a_subscriber_and_its_subscription_loses_it_nothing(
    sink, rng, monkeypatch
):
    """The server tells of a subscriber first, and sends to it afterwards."""
    told = _Listener.on_subscribe

    def tell_and_dawdle(listener, client, channel):
        told(listener, client, channel)
        time.sleep(0.2)  # frames come meanwhile

    monkeypatch.setattr(_Listener, "on_subscribe", tell_and_dawdle)
    with frames_for(sink, rng):
        client = Client(sink.url)
        client.subscribe("metadata")
        assert client.next(5)[0] == f"{PREFIX}/metadata"
        client.close()


def test_what_nobody_looks_at_is_not_even_serialised(sink, rng, monkeypatch):
    made = []
    monkeypatch.setattr(
        "e2e_deploy.runtime.sinks.live.foxglove_sink.serialise",
        lambda message: made.append(message.type_name) or b"",
    )
    for index in range(3):
        sink.write(shot(rng, index), *geometry(rng))
    assert made == ["std_msgs/msg/String"]


def test_a_slow_client_holds_up_nobody_and_costs_no_memory(sink, rng):
    """It subscribes and reads nothing: the oldest messages go."""
    client = Client(sink.url, queue=1)
    sink.write(shot(rng), *geometry(rng))
    client.subscribe("image")
    large = SourceFrame(np.zeros((1000, 1000, 3), np.uint8), 1, None, "a", stamp_ns=STAMP_NS)
    time.sleep(0.2)
    before = resident_bytes()
    results, facts = geometry(rng)
    start = time.monotonic()
    for _ in range(200):
        sink.write(large, results, facts)
    assert time.monotonic() - start < 20
    assert resident_bytes() - before < 150e6  # of 600 MB
    client.socket.socket.close()


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_clients_come_and_go_while_it_sends(sink, rng):
    """Subscriptions are taken in the server's threads, which may hold what a sender waits for."""
    with frames_for(sink, rng) as written:
        for _ in range(30):
            client = Client(sink.url)
            client.subscribe("metadata", "image")
            client.next()
            client.close()
        count = len(written)
        end = time.monotonic() + 20
        while len(written) <= count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(written) > count


def test_what_comes_is_known_before_the_first_frame(metric_sink, sink):
    for each, distance in ((metric_sink, "depth"), (sink, "depth_affine")):
        client = Client(each.url)
        client.note(client.socket.recv(10))
        names = {c["topic"].rpartition("/")[2] for c in client.channels.values()}
        client.close()
        assert {distance, "image", "normals", "camera_info", "metadata"} <= names
        assert ("points" in names) == (distance == "depth")


def test_the_end_is_told(tmp_path, rng):
    sink = FoxgloveSink("foxglove:0", opening_for(tmp_path))
    client = Client(sink.url)
    assert sink.close() == []
    with pytest.raises(ConnectionClosed):
        client.next()


def test_the_prefix(tmp_path, rng):
    sink = FoxgloveSink("foxglove:0?prefix=/other/place", opening_for(tmp_path))
    sink.write(shot(rng), *geometry(rng))
    client = Client(sink.url)
    client.note(client.socket.recv(10))
    assert {c["topic"].rpartition("/")[0] for c in client.channels.values()} == {"/other/place"}
    client.close()
    sink.close()


def test_it_is_on_this_machine_alone(sink):
    port = int(sink.url.rpartition(":")[2])
    assert sink.url == f"ws://127.0.0.1:{port}"
    assert sink.name == f"Foxglove {sink.url}"
    # All of 127/8 is this machine; a server on every address would answer here too
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), 5)


def test_a_port_that_is_taken(sink, tmp_path):
    port = sink.url.rpartition(":")[2]
    with pytest.raises(
        UnavailableError, match=f"cannot use 127.0.0.1:{port}: .*in use.*; name"
    ) as e:
        FoxgloveSink(f"foxglove:{port}", opening_for(tmp_path / "b"))
    assert "FoxgloveError" not in str(e.value)


def test_a_host_that_is_none_of_ours(tmp_path):
    with pytest.raises(UnavailableError, match=r"cannot use 192\.0\.2\.1:0: "):
        FoxgloveSink("foxglove:192.0.2.1:0", opening_for(tmp_path))
    with pytest.raises(UsageError, match="names no port"):
        FoxgloveSink("foxglove:everywhere", opening_for(tmp_path / "b"))


def test_opened_and_closed_often(tmp_path, rng):
    opening, threads = opening_for(tmp_path), []
    for _ in range(50):
        sink = FoxgloveSink("foxglove:0", opening)
        sink.write(shot(rng), *geometry(rng))
        sink.close()
        threads.append(len(os.listdir("/proc/self/task")))
    assert threads[-1] <= threads[10] + 8  # its own pool grows when it likes


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "foxglove", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[robotics\]'"):
        FoxgloveSink("foxglove:0", opening_for(tmp_path))
