import hashlib
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from urllib.request import AbstractDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm

import av
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.streams.address import parse_address
from e2e_deploy.runtime.sinks.streams.packing import Chunk
from e2e_deploy.runtime.sinks.streams.rtsp.publisher import published
from tests.filming import HW, decoded, numbers_of


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_ffmpeg_as_a_server_takes_the_stream(filming):
    """FFmpeg waits for a publisher, and knows nothing of us."""
    port, frames = free_port(), []

    def serve():
        with av.open(
            f"rtsp://127.0.0.1:{port}/depth",
            format="rtsp",
            options={"rtsp_flags": "listen", "listen_timeout": "10", "analyzeduration": "100000"},
            timeout=10,
        ) as container:
            frames.extend(decoded(container))

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"rtsp://127.0.0.1:{port}/depth"
    for _ in range(500):  # until it listens
        with suppress(E2EDeployError), filming(address, side_by_side=True) as camera:
            while len(camera.painted) < 50:
                time.sleep(0.02)
            break
        time.sleep(0.02)
    thread.join(10)
    numbers = numbers_of(frames)
    assert len(numbers) >= 15
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[-1] == max(camera.painted)
    assert frames[0][0].shape == (HW[0], 2 * HW[1], 3)
    times = [frame.time for _, frame in frames[1:]]  # of its first one FFmpeg says none
    captured = [camera.captured_s[number] for number in numbers[1:]]
    np.testing.assert_allclose(np.diff(times), np.diff(captured), atol=3e-5)


@contextmanager
def scripted(answers, after=b""):
    """A server that answers so, says what comes ``after`` and leaves; gives the port and what was asked."""
    asked = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with connection:
            pending = b""
            for answer in answers:
                while b"\r\n\r\n" not in pending:
                    data = connection.recv(4096)
                    if not data:
                        return
                    pending += data
                head, _, pending = pending.partition(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                size = int(length[1]) if length else 0
                while len(pending) < size:
                    pending += connection.recv(4096)
                body, pending = pending[:size], pending[size:]
                asked.append((head.decode(), body.decode()))
                number = re.search(rb"CSeq: (\d+)", head)[1].decode()
                connection.sendall(answer.replace("CSEQ", number).encode())
            connection.settimeout(10)
            with suppress(BrokenPipeError):
                connection.sendall(after)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # an end with bytes unread would be a reset
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listening:
        yield listening.getsockname()[1], asked
    thread.join(5)


OK = "RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\nSession: 77;timeout=60\r\n\r\n"
SETUP = OK.replace("\r\n\r\n", "\r\nTransport: RTP/AVP/TCP;interleaved=2-3\r\n\r\n")


def refused(*ways):
    lines = "".join(f"WWW-Authenticate: {way}\r\n" for way in ways)
    return f"RTSP/1.0 401 Unauthorized\r\nCSeq: CSEQ\r\n{lines}\r\n"


def test_what_a_server_is_asked():
    with scripted([OK, SETUP, OK]) as (port, asked):
        published(parse_address(f"rtsp://127.0.0.1:{port}/a"), "v=0\r\n").close()
    firsts = [head.split("\r\n")[0] for head, _ in asked]
    url = f"rtsp://127.0.0.1:{port}/a"
    assert firsts == [
        f"ANNOUNCE {url} RTSP/1.0",
        f"SETUP {url}/video RTSP/1.0",
        f"RECORD {url} RTSP/1.0",
    ]
    assert asked[0][1] == "v=0\r\n"
    assert "mode=record" in asked[1][0]
    assert "Session: 77\r\n" in asked[2][0]


def test_what_the_server_says_meanwhile_is_read_away():
    """Reports of what it got; else it could not send them at some time, and wait."""
    report = b"$\1" + (60_000).to_bytes(2, "big") + bytes(60_000)
    with scripted([OK, SETUP, OK], after=report * 200) as (port, _):
        link = published(parse_address(f"rtsp://127.0.0.1:{port}/a"), "")
        with pytest.raises(ConnectionResetError):  # it had sent all of that, and left
            for _ in range(5000):
                link.send(Chunk((b"\x80\x60" + bytes(20),), is_key=True))
                time.sleep(0.001)
        link.close()


DIGEST = 'Digest realm="a, b", nonce="n0nce"'
SHA_256 = 'Digest realm="a, b", nonce="other", algorithm="SHA-256"'


@pytest.mark.parametrize(
    "ways",
    [
        [DIGEST],
        ['Basic realm="x"', DIGEST],
        [DIGEST, 'Basic realm="x"'],
        [SHA_256, f'{DIGEST}, algorithm="MD5"'],
    ],
)
def test_digest_is_as_the_standard_library_reckons_it(ways):
    with scripted([refused(*ways), OK, SETUP, OK]) as (port, asked):
        published(parse_address(f"rtsp://me:s%2Fcret@127.0.0.1:{port}/a"), "v=0\r\n").close()
    assert not any("s/cret" in head or "s%2Fcret" in head for head, _ in asked)
    assert "Authorization" not in asked[0][0]
    for head, _ in asked[1:]:
        method, uri, _ = head.split("\r\n")[0].split(" ")
        passwords = HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password("a, b", uri.replace("rtsp", "http", 1), "me", "s/cret")
        peer = AbstractDigestAuthHandler(passwords)

        class Request:
            full_url, selector, data = uri.replace("rtsp", "http", 1), uri, None

            @staticmethod
            def get_method(method=method):
                return method

        expected = peer.get_authorization(Request, {"realm": "a, b", "nonce": "n0nce"})
        given = re.search(r'Authorization: Digest .*response="(\w+)"', head)[1]
        assert given == re.search(r'response="(\w+)"', expected)[1]
        assert given != hashlib.md5(b"").hexdigest()


def test_basic_where_nothing_else_is_asked_for():
    with scripted([refused('Basic realm="x"'), OK, SETUP, OK]) as (port, asked):
        published(
            parse_address(f"rtsp://Aladdin:open sesame@127.0.0.1:{port}/a".replace(" ", "%20")), ""
        ).close()
    assert "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" in asked[1][0]  # RFC 7617, section 2


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([refused('Basic realm="x"')] * 2, "answers 401 Unauthorized to ANNOUNCE"),
        ([refused("Bearer")] * 2, "answers 401 Unauthorized to ANNOUNCE"),
        (
            [OK, OK.replace("200 OK", "461 Unsupported Transport")],
            "461 Unsupported Transport to SETUP",
        ),
        (["HTTP/1.1 400 Bad Request\r\n\r\n"], "speaks no RTSP"),
        (["SSH-2.0-x\r\n\r\n"], "speaks no RTSP"),
    ],
)
def test_a_server_that_does_not_take_it(answers, said):
    with scripted(answers) as (port, _), pytest.raises(E2EDeployError) as no:
        published(parse_address(f"rtsp://me:s3cret@127.0.0.1:{port}/k3y"), "")
    assert f"rtsp://***@127.0.0.1:{port}/*** " in str(no.value)
    assert said in str(no.value)
    assert "s3cret" not in str(no.value)
    assert "k3y" not in str(no.value)


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.streams.links.STUCK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        published(parse_address(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/a"), "")
