import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.viewer import MAX_CLIENTS, ViewerSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from e2e_deploy.system.opencv import cv2
from tests.plain_bundle import HW, NOTE, write_plain_bundle
from tests.sink_inputs import painter, result_for, source_frame


@pytest.fixture
def viewer(manifests):
    sink = ViewerSink(0, manifests["depth"], painter(manifests["depth"], True))
    yield sink
    sink.close()


def port_of(sink):
    return int(sink.url.rpartition(":")[2])


def ask(sink, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port_of(sink), timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


@contextmanager
def streaming(sink):
    """An open stream; next_picture() reads one JPEG from it as RGB."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(sink), timeout=20)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")

    def next_picture():
        length = None
        while (line := answer.readline().strip()) or length is None:
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        data = np.frombuffer(answer.read(length), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    try:
        yield next_picture
    finally:
        connection.close()


def wait_until(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within ten seconds")


def test_the_page_and_what_it_may_do(viewer):
    status, body, headers = ask(viewer, "GET", "/")
    assert status == 200
    assert b"<title>e2e-deploy</title>" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"innerHTML" not in body  # notes and names come from outside
    assert viewer.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("path", ["/", "/status", "/stream", "/nothing"])
def test_no_other_page_may_show_anything_of_it(viewer, path):
    connection = http.client.HTTPConnection("127.0.0.1", port_of(viewer), timeout=10)
    connection.request("GET", path)
    headers = connection.getresponse().headers
    connection.close()
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_the_newest_picture_comes_side_by_side(viewer, rng):
    frame, result = source_frame(rng, (48, 64)), result_for("depth", rng, (48, 64))
    viewer.write(frame, result, {})
    with streaming(viewer) as next_picture:
        picture = next_picture()
        assert picture.shape == (48, 128, 3)
        black = source_frame(rng, (48, 64))
        black.rgb[:] = 0
        viewer.write(black, result, {})
        assert next_picture()[:, :60].max() < 30


def test_status_says_what_is_happening(viewer, manifests, rng, tmp_path):
    bundle = open_bundle(write_plain_bundle(tmp_path / "bundle"))
    source = PatternSource(*HW, fps=100, total=30)
    report = run_source(bundle, source, [], on_frame=viewer.look)
    report.parity = SimpleNamespace(words=lambda: "fine")
    viewer.write(source_frame(rng), result_for("depth", rng), {})
    viewer.write(source_frame(rng), result_for("depth", rng), {})
    told = json.loads(ask(viewer, "GET", "/status")[1])
    assert told["frames"] == 2
    assert told["fps"] > 0
    assert told["engine"]["p50_ms"] == pytest.approx(report.latency.p50_ms)
    assert told["dropped"] == report.dropped
    assert (told["parity"], told["note"], told["colormap"]) == ("fine", NOTE, "spectral")


def test_colours_and_range_change(viewer):
    def put(value):
        return ask(viewer, "POST", "/set", json.dumps(value))[0]

    assert put({"colormap": "turbo", "range": [0.2, 0.7]}) == 200
    assert (viewer._painter.colormap, viewer._painter.fixed) == ("turbo", (0.2, 0.7))
    for bad in (
        {"colormap": "../x"}, {"colormap": "turbo", "range": [1, 0]}, [], None, 3,
        {"colormap": "turbo", "range": ["a", 1]}, {"colormap": "turbo", "range": [float("nan"), 1]},
        {"colormap": ["turbo"]},
    ):  # fmt: skip
        assert put(bad) == 400, bad
    assert viewer._painter.fixed == (0.2, 0.7)
    assert put({"colormap": "inferno", "range": None}) == 200
    assert (viewer._painter.colormap, viewer._painter.fixed) == ("inferno", None)


def test_other_hosts_and_other_pages_are_refused(viewer):
    port = port_of(viewer)
    good = json.dumps({"colormap": "turbo", "range": None})
    assert ask(viewer, "GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert ask(viewer, "GET", "/stream", headers={"Host": f"evil.example:{port}"})[0] == 403
    for origin, code in (("http://evil.example", 403), (f"http://localhost:{port}", 200)):
        assert ask(viewer, "POST", "/set", good, {"Origin": origin})[0] == code
    for site, code in (
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 200),
        ("none", 200),
    ):
        assert ask(viewer, "GET", "/status", headers={"Sec-Fetch-Site": site})[0] == code
        assert (ask(viewer, "POST", "/set", good, {"Sec-Fetch-Site": site})[0]) == code
    for site in ("cross-site", "same-site"):
        for path in ("/", "/stream"):
            assert ask(viewer, "GET", path, headers={"Sec-Fetch-Site": site})[0] == 403
    assert ask(viewer, "GET", "/etc/passwd")[0] == 404
    assert ask(viewer, "POST", "/status", good)[0] == 404
    assert ask(viewer, "POST", "/set", "x" * 2000)[0] == 413


def test_clients_that_never_read_slow_nothing_and_are_limited(viewer, rng, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.viewer._Handler.timeout", 1.0)
    stuck = []
    for _ in range(MAX_CLIENTS):
        client = socket.create_connection(("127.0.0.1", port_of(viewer)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(
            f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port_of(viewer)}\r\n\r\n".encode()
        )
        stuck.append(client)
    wait_until(lambda: len(viewer.clients) == MAX_CLIENTS)
    assert ask(viewer, "GET", "/stream")[0] == 503
    frame, result = source_frame(rng, (240, 320)), result_for("depth", rng, (240, 320))
    slowest = 0.0
    for _ in range(50):
        start = time.perf_counter()
        viewer.write(frame, result, {})
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 2.0  # nobody waited for a client
    wait_until(lambda: not viewer.clients)  # cut off after STUCK_S
    for client in stuck:
        client.close()


def test_in_a_run_the_numbers_move_and_slow_clients_do_not_slow_it(tmp_path):
    bundle = open_bundle(write_plain_bundle(tmp_path / "bundle"))
    sink = ViewerSink(0, bundle.manifest, painter(bundle.manifest, True))
    slow = [socket.create_connection(("127.0.0.1", port_of(sink))) for _ in range(2)]
    for client in slow:
        client.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port_of(sink)}\r\n\r\n".encode())
    source, numbers = PatternSource(96, 128, fps=50), []

    def watch():
        with streaming(sink) as next_picture:
            while len(numbers) < 10:
                numbers.append(read_number(next_picture()[:, :128]))
        source.stop()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    report = run_source(bundle, source, [sink], limit=2000, on_frame=sink.look)
    watcher.join(10)
    assert len(numbers) == 10
    assert numbers == sorted(set(numbers))
    assert report.age.p50_ms < 1000
    assert report.sinks[0].failure == ""
    for client in slow:
        client.close()


def test_closing_ends_connections_threads_and_the_port(manifests):
    before = set(threading.enumerate())
    sink = ViewerSink(0, manifests["depth"], painter(manifests["depth"]))
    client = socket.create_connection(("127.0.0.1", port_of(sink)))
    client.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port_of(sink)}\r\n\r\n".encode())
    wait_until(lambda: sink.clients)
    assert sink.close() == []
    wait_until(lambda: set(threading.enumerate()) == before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(sink)), timeout=1)
    client.close()


def test_clients_that_left_before_a_picture_came_keep_no_place(viewer):
    for _ in range(MAX_CLIENTS):
        with streaming(viewer):
            pass
    wait_until(lambda: not viewer.clients)


def test_a_restart_takes_the_port_again(viewer, manifests, rng):
    """The side that closes first keeps the connection in TIME_WAIT for a minute: here the server."""
    with streaming(viewer) as next_picture:
        viewer.write(source_frame(rng), result_for("depth", rng), {})
        next_picture()
        viewer.close()
    ViewerSink(port_of(viewer), manifests["depth"], painter(manifests["depth"])).close()


def test_a_port_that_is_taken(viewer, manifests):
    with pytest.raises(UnavailableError, match=f"port {port_of(viewer)}: .*; name another one"):
        ViewerSink(port_of(viewer), manifests["depth"], painter(manifests["depth"]))
