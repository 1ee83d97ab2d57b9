import re
import socket
from contextlib import suppress

import av
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sinks.streams import server
from e2e_deploy.runtime.sinks.streams.receiver import MAX_RECEIVERS
from e2e_deploy.runtime.sources.live import StreamSource
from tests.filming import numbers_of, received, served_at

HERE = "rtsp://127.0.0.1:0/depth?listen"


class Client:
    """Speaks as the test says."""

    def __init__(self, camera, path="/depth"):
        self._url = served_at(camera, path)
        self._socket = socket.create_connection(("127.0.0.1", camera.sink.port), 5)
        self._file = self._socket.makefile("rb")
        self._number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def send(self, data):
        self._socket.sendall(data)

    def ask(self, method, *headers, path=""):
        """The answer's code, headers and body."""
        self._number += 1
        lines = [f"{method} {self._url}{path} RTSP/1.0", f"CSeq: {self._number}", *headers, "", ""]
        self.send("\r\n".join(lines).encode())
        return self.answer()

    def answer(self):
        while (first := self._file.read(1)) == b"$":  # a packet
            _, high, low = self._file.read(3)
            self._file.read(256 * high + low)
        if not first:
            return None
        status = (first + self._file.readline()).decode()
        headers = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name] = value
        body = self._file.read(int(headers.get("Content-Length", 0))).decode()
        assert headers["CSeq"] == str(self._number)
        return int(status.split(" ")[1]), headers, body

    def packet(self):
        """Channel and bytes of the next packet."""
        dollar, channel, high, low = self._file.read(4)
        assert dollar == ord("$")
        return channel, self._file.read(256 * high + low)

    def ended(self):
        """Whether the server ended the connection."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def test_a_client_that_asks_for_udp_is_told_to_ask_again(filming):
    with filming(HERE, side_by_side=True) as camera:
        frames = received(served_at(camera, "/depth"), 3, rtsp_transport="udp+tcp")
    assert len(numbers_of(frames)) == 3


def test_what_is_said_of_the_stream(filming):
    with filming(HERE) as camera, Client(camera) as client:
        code, headers, _ = client.ask("OPTIONS")
        assert code == 200
        assert {"DESCRIBE", "SETUP", "PLAY", "TEARDOWN"} <= set(headers["Public"].split(", "))
        assert client.ask("PLAY")[0] == 455
        code, headers, sdp = client.ask("DESCRIBE", "Accept: application/sdp")
        assert (code, headers["Content-Type"]) == (200, "application/sdp")
        assert headers["Content-Base"] == f"{served_at(camera, '/depth')}/"
        assert "a=control:video\r\n" in sdp
        assert re.search(r"a=fmtp:96 packetization-mode=1;profile-level-id=\w{6};sprop", sdp)
        assert client.ask("SETUP", "Transport: RTP/AVP;unicast;client_port=8000-8001")[0] == 461
        way = "RTP/AVP/TCP;unicast;interleaved=4-5"
        code, headers, _ = client.ask("SETUP", f"Transport: {way}", path="/video")
        assert (code, headers["Transport"]) == (200, way)
        session = headers["Session"]
        assert re.fullmatch("[0-9a-f]{16}", session)
        assert client.ask("PLAY", f"Session: {session}")[0] == 200
        packets = [client.packet() for _ in range(6)]
        assert {channel for channel, _ in packets} <= {4, 5}
        assert {data[1] & 127 for channel, data in packets if channel == 4} == {96}
        # answers come whole between packets, and what the client reports is passed over
        client.send(b"$\5\0\4abcd\r\n")
        assert client.ask("GET_PARAMETER")[0] == 200
        assert client.ask("PAUSE")[0] == 501
        assert client.ask("FLY")[0] == 501
        assert client.ask("TEARDOWN")[0] == 200
        assert client.ended()


@pytest.mark.parametrize("path", ["/other", "/depth/x", "", "/Depth", "/../depth"])
def test_there_is_nothing_elsewhere(filming, path):
    with filming(HERE) as camera, pytest.raises(av.error.HTTPNotFoundError):
        received(served_at(camera, path), 1)


@pytest.mark.parametrize(
    ("path", "asked"), [("", ""), ("", "/"), ("/d/e/", "/d/e"), ("/d?k=v", "/d?k=v")]
)
def test_other_paths(filming, path, asked):
    address = f"rtsp://127.0.0.1:0{path}{'&' if '?' in path else '?'}listen"
    with filming(address) as camera, Client(camera, asked) as client:
        assert client.ask("DESCRIBE")[0] == 200


def test_only_those_with_the_password_see_it(filming):
    with filming("rtsp://me:s%2Fcret@127.0.0.1:0/depth?listen") as camera:
        assert "cret" not in camera.sink.name
        good = StreamSource(served_at(camera, "/depth", "me:s%2Fcret@"), reconnect_s=0)
        assert next(iter(good)).hw == (96, 160)
        for credentials in ("", "me:wrong@", "you:s%2Fcret@"):
            source = StreamSource(served_at(camera, "/depth", credentials), reconnect_s=0)
            with pytest.raises(SourceError, match="was refused") as refused:
                next(iter(source))
            assert "cret" not in str(refused.value)
        with Client(camera) as client:
            for method in ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN"):
                assert client.ask(method)[0] == 401


SOMETHING_ELSE = [
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"\x00\xff" * 20 + b"\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\n" + b"X: y\r\n" * 5000,
    b"OPTIONS * RTSP/1.0\r\nContent-Length: 999999\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
    b"A" * 20_000,
]


def test_who_speaks_something_else_is_cut_off(filming):
    with filming(HERE) as camera, Client(camera) as other:
        for said in SOMETHING_ELSE:
            with Client(camera) as client:
                with suppress(ConnectionError):  # while it still spoke
                    client.send(said)
                assert client.ended()
        assert other.ask("DESCRIBE")[0] == 200  # nobody else notices


def test_there_is_room_for_a_few(filming, monkeypatch):
    way = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
    with filming(HERE) as camera:
        clients = [Client(camera) for _ in range(MAX_RECEIVERS + 1)]
        codes = []
        for client in clients:
            assert client.ask("SETUP", way)[0] == 200
            codes.append(client.ask("PLAY")[0])
        assert codes == [200] * MAX_RECEIVERS + [453]
        more = [Client(camera) for _ in range(server.MAX_CONNECTIONS - len(clients))]
        assert all(client.ask("OPTIONS")[0] == 200 for client in more)
        with Client(camera) as extra:
            assert extra.ended()
        for client in [*clients, *more]:
            client.__exit__()


def test_a_stream_that_has_not_begun_says_so(still, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.streams.stream_sink.DESCRIBE_S", 0.05)
    camera = still(HERE)
    with Client(camera) as client:
        assert client.ask("DESCRIBE")[0] == 503
        camera.write(0.0)
        assert client.ask("DESCRIBE")[0] == 200
    camera.sink.close()
