"""Many clients, bad clients and the end of a server: refusals with a reason, nothing lost, nothing that grows."""

import gc
import json
import logging
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.serve import connection
from e2e_deploy.runtime.serve import server as server_module
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.serve.clients import (
    address,
    ask,
    binary,
    infer_path,
    raw,
    received,
    results_of,
)


@pytest.fixture
def frame(rng):
    return rng.integers(0, 256, (1, *HW, 3), dtype=np.uint8)


def infer(server, frames):
    body, headers = binary(frames)
    return ask(server, "POST", infer_path(server), body, headers)


def until(condition, timeout_s=10.0):
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "it did not happen"
        time.sleep(0.005)


def request_of(server, frames):
    """A whole request as bytes."""
    body, headers = binary(frames)
    told = {"Host": "127.0.0.1", "Content-Length": str(len(body))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"POST {infer_path(server)} HTTP/1.1\r\n{head}\r\n".encode() + body


def taken(server):
    return server._turns.taken


def test_one_more_than_the_queue_holds_is_refused_with_a_reason_and_the_others_are_answered(
    held, frame
):
    server = held(queue=3)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(infer, server, frame) for _ in range(3)]
        until(lambda: taken(server) == 3)
        status, headers, body = infer(server, frame)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert json.loads(body)["error"].startswith("3 requests are on their way and no more")
        assert ask(server, "GET", "/v2/health/live")[0] == 200  # which needs no place
        server.go.set()
        for each in waiting:
            found = results_of(each.result())["depth"]
            np.testing.assert_allclose(found, plain_depth(frame), atol=1e-6)
    assert infer(server, frame)[0] == 200
    report = server.close()
    assert (report.answered, report.refused, report.complete) == (4, {"full": 1}, True)


def test_what_waits_together_is_computed_together_and_each_gets_its_own(held, rng):
    server = held(batch=4)
    frames = rng.integers(0, 256, (7, *HW, 3), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(infer, server, frames[:1])
        until(lambda: len(server.calls) == 1)
        others = []
        for start, stop in ((1, 3), (3, 5), (5, 7)):
            others.append(pool.submit(infer, server, frames[start:stop]))
            until(lambda: taken(server) == len(others) + 1)
            until(lambda: len(server._turns._turns) == len(others))
        server.go.set()
        found = [results_of(each.result())["depth"] for each in (first, *others)]
    np.testing.assert_allclose(np.concatenate(found), plain_depth(frames), atol=1e-6)
    assert [len(call) for call in server.calls] == [
        4,
        4,
        4,
    ]  # the first filled up, two pairs, one pair
    np.testing.assert_array_equal(server.calls[1], frames[1:5])
    status, _, body = infer(server, np.concatenate([frames, frames])[:5])
    assert (status, "at most 4 at once" in body.decode()) == (400, True)


def test_an_engine_that_fails_costs_the_answers_of_that_call(held, frame, monkeypatch):
    server = held()
    server.go.set()
    call = Engine.__call__
    for error, said in (
        (E2EDeployError("no memory is left"), "no memory is left"),
        (RuntimeError("/secret/path"), "the engine failed: RuntimeError"),
    ):

        def fail(self, frames, error=error):
            raise error

        monkeypatch.setattr(Engine, "__call__", fail)
        status, _, body = infer(server, frame)
        assert (status, json.loads(body)["error"]) == (500, said)
    monkeypatch.setattr(Engine, "__call__", call)
    assert infer(server, frame)[0] == 200


def test_a_huge_body_is_refused_before_it_is_read(server):
    limit = server._served.limit
    status, headers, body = ask(
        server, "POST", infer_path(server), None, {"Content-Length": str(10**12)}
    )
    assert (status, headers["connection"]) == (413, "close")
    assert f"at most {limit:,} are taken" in json.loads(body)["error"]

    def endless():
        for _ in range(limit // 2**20 + 2):
            yield b"x" * 2**20

    status, _, _ = ask(server, "POST", infer_path(server), endless())  # chunked: no length is said
    assert status == 413
    assert ask(server, "GET", "/v2/health/ready")[0] == 200


def test_a_slow_client_is_cut_and_others_are_served_meanwhile(tmp_path, frame):
    bundle = write_plain_bundle(tmp_path / "b")
    with e2e.ModelServer(bundle, port=0, timeout_s=2) as server:
        data = request_of(server, frame)
        with raw(server) as slow, raw(server) as drips:
            slow.sendall(data[:-5])
            drips.sendall(data[:300])
            until(lambda: taken(server) == 2)
            assert infer(server, frame)[0] == 200
            for client in (slow, drips):
                answer = received(client)  # long before the client's own time is over
                assert answer.startswith(b"HTTP/1.1 408 "), answer[:80]
                assert b"the request was not there after 2 s" in answer
        until(lambda: taken(server) == 0)
        assert infer(server, frame)[0] == 200
    assert server.close().refused == {"slow": 2}


def test_a_head_that_does_not_come_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(connection, "HEADERS_S", 0.3)
    for first in (b"", b"POST /v2/mod", b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
        with raw(server, 10) as client:
            client.sendall(first)
            assert received(client) in (b"", b"(reset)")
    with raw(server, 10) as client:  # after a good one, too
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /v2")
        assert received(client).startswith(b"HTTP/1.1 200 ")


def test_too_many_connections_are_not_taken(server, monkeypatch):
    until(lambda: not server._server.server_state.connections)
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    with raw(server) as one, raw(server) as two:
        until(lambda: len(server._server.server_state.connections) == 2)
        with raw(server) as three:
            assert received(three) in (b"", b"(reset)")
        for client in (one, two):
            client.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert received(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [0, 40, 400, None])
def test_a_client_that_closes_its_half_gets_what_it_asked_for_wholly(server, frame, sent):
    with raw(server) as client:
        client.sendall(request_of(server, frame)[:sent])
        client.shutdown(socket.SHUT_WR)
        answer = received(client)
    if sent is None:
        assert answer.startswith(b"HTTP/1.1 200 ")
        depth = np.frombuffer(answer[-4 * HW[0] * HW[1] :], "<f4").reshape(HW)
        np.testing.assert_allclose(depth, plain_depth(frame[0]), atol=1e-6)
    else:
        assert b"200" not in answer
    until(lambda: taken(server) == 0)


def test_clients_that_go_lose_only_their_own(held, frame):
    server = held(queue=4)
    data = request_of(server, frame)
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(infer, server, frame)
        until(lambda: taken(server) == 1)
        for linger in (False, True):
            with raw(server) as gone:
                gone.sendall(data)
                until(lambda wanted=2 + linger: taken(server) == wanted)
                if linger:  # a reset in the place of an end
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.go.set()
        found = results_of(stays.result())["depth"]
        np.testing.assert_allclose(found, plain_depth(frame), atol=1e-6)
    until(lambda: taken(server) == 0)
    assert infer(server, frame)[0] == 200


def test_a_client_that_takes_nothing_is_cut(tmp_path):
    """Its answers would wait in memory for ever."""
    bundle = write_plain_bundle(tmp_path / "large", sizes=((256, 1024),))
    frame = np.zeros((1, 256, 1024, 3), np.uint8)
    with e2e.ModelServer(bundle, port=0, timeout_s=2) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address(server))
            client.settimeout(10)
            data = request_of(server, frame)
            try:
                for _ in range(20):
                    client.sendall(data)
            except OSError:
                pass  # cut while it still sent
            until(lambda: not server._server.server_state.connections, 15)
        assert infer(server, frame)[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2/models/depth/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/depth/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 30_000,
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_http_is_ended(server, data, capfd):
    with raw(server, 15) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = received(client)
    assert answer[:12] in (
        b"",
        b"(reset)",
        *(b"HTTP/1.1 %d" % status for status in (200, 400, 404, 408)),
    )
    assert ask(server, "GET", "/v2/health/ready")[0] == 200
    assert capfd.readouterr() == ("", "")  # a stranger fills no log


def footprint():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
def test_many_clients_leave_nothing_behind(server, frame):
    """Good, bad, and those that go; what is refused says why."""
    infer(server, frame)
    until(lambda: not server._server.server_state.connections)
    before = footprint()

    def work(number):
        if number % 5 == 0:
            with raw(server) as client:
                client.sendall(request_of(server, frame)[: 50 * number])
            return 0
        if number % 7 == 0:
            return ask(server, "POST", infer_path(server), b"{}")[0]
        return infer(server, frame)[0]

    with ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(work, range(200)))
    assert set(statuses) <= {0, 200, 400, 429}
    assert statuses.count(200) > 20
    until(lambda: not server._server.server_state.connections and not taken(server))
    until(lambda: footprint()[0] <= before[0])
    assert footprint()[1] <= before[1] + 2  # the two helpers, made when first needed


def test_its_end_answers_what_was_taken_and_refuses_the_rest(held, frame):
    server = held()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(infer, server, frame) for _ in range(2)]
        until(lambda: taken(server) == 2)
        ending = pool.submit(server.close)
        until(lambda: not server._served.ready)
        time.sleep(0.3)
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset
            raw(server, 2).close()
        server.go.set()
        for each in waiting:
            assert results_of(each.result())["depth"].shape == (1, *HW)
        assert ending.result().complete
    assert server.close() is ending.result()
    assert server.engine.closed


def test_what_lasts_longer_than_its_end_is_told_so_and_not_counted_as_answered(
    held, frame, monkeypatch
):
    monkeypatch.setattr(server_module, "GRACE_S", 1)
    server = held()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(infer, server, frame) for _ in range(2)]
        until(lambda: taken(server) == 2)
        ending = pool.submit(server.close)
        for each in waiting:  # while the engine still computes
            status, _, body = each.result()
            assert (status, json.loads(body)["error"]) == (
                503,
                "the server ended before this was computed",
            )
        server.go.set()
        report = ending.result()
    assert (report.answered, report.refused, report.complete) == (0, {"ending": 2}, False)


def test_its_port_is_its_own_before_the_engine_is_loaded(tmp_path, monkeypatch):
    bundle, load = write_plain_bundle(tmp_path / "b"), server_module.load
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))  # Linux lets two sockets bind a port while neither listens

        def loading(*given, **named):
            with pytest.raises(OSError, match="in use"):
                other.listen()
            return load(*given, **named)

        monkeypatch.setattr(server_module, "load", loading)
        with e2e.ModelServer(bundle, port=other.getsockname()[1]) as server:
            assert ask(server, "GET", "/v2/health/ready")[0] == 200


def test_threads_are_gone_and_the_port_is_free_after_the_end(tmp_path, frame):
    bundle = write_plain_bundle(tmp_path / "b")
    before = set(threading.enumerate())
    with e2e.ModelServer(bundle, port=0) as server:
        infer(server, frame)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
    port = address(server)[1]
    with e2e.ModelServer(bundle, port=port) as again:  # at once
        assert infer(again, frame)[0] == 200
        with pytest.raises(UnavailableError, match=rf"cannot use port {port}: .*name another one"):
            e2e.ModelServer(bundle, port=port)


def test_other_servers_of_the_process_keep_their_logs(server):
    assert logging.getLogger("uvicorn.error").level == logging.NOTSET


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": -1}, "`port` is -1; expected 0 to 65535"),
        ({"queue": 0}, "`queue` is 0"),
        ({"timeout_s": float("nan")}, "`timeout_s` is nan"),
        ({"name": "a b", "port": 0}, "`name` is 'a b'"),
        ({"frame_size": (1, 1), "port": 0}, "no graph for frames of 1x1"),
    ],
)
def test_wrong_arguments(tmp_path, given, said):
    bundle = write_plain_bundle(tmp_path / "b")
    with pytest.raises(UsageError) as error:
        e2e.ModelServer(bundle, **given)
    assert said in str(error.value)
