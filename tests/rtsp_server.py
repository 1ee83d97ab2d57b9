"""Streams for tests: MPEG-TS bytes with painted frame numbers, and an RTSP server for one client at a time."""

import base64
import io
import re
import socket
import threading
import time

import av

from e2e_deploy.runtime.sources.pattern import PatternSource

PACKET = 188


def ts_bytes(height, width, count, first=0):
    """``count`` frames of the test pattern as MPEG-TS; a key frame every fifth."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5", "crf": "18"}
        for frame in PatternSource(height, width, fps=0, total=first + count):
            if frame.index >= first:
                picture = av.VideoFrame.from_ndarray(frame.rgb)
                picture.pts = frame.index
                for packet in stream.encode(picture):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return target.getvalue()


class RtspServer:
    """Sends each of ``plays`` to one client after the other; a number in a play is a pause in seconds.

    Attributes:
        url: with the right credentials, if there are any.
        clients: how many asked to play.
    """

    def __init__(self, plays, credentials="", title="t"):
        self._plays, self._title = list(plays), title
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._needs = bool(credentials)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        at = f"{credentials}@" if credentials else ""
        self.url = f"rtsp://{at}127.0.0.1:{self.port}/cam"
        self.clients = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    self._talk(client)
                except OSError:
                    continue

    def _talk(self, client):
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                data = client.recv(4096)
                if not data:
                    return
                pending += data
            request, _, pending = pending.partition(b"\r\n\r\n")
            text = request.decode(errors="replace")
            method = text.split(" ")[0]
            number = re.search(r"CSeq: *(\d+)", text, re.IGNORECASE)[1]
            if self._needs and f"Authorization: {self._expected}" not in text:
                self._answer(
                    client, number, "401 Unauthorized", 'WWW-Authenticate: Basic realm="t"'
                )
            elif method == "DESCRIBE":
                sdp = (
                    f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns={self._title}\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 33\r\na=control:track\r\n"
                )
                self._answer(client, number, "200 OK", "Content-Type: application/sdp", body=sdp)
            elif method == "SETUP":
                way = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
                self._answer(client, number, "200 OK", way, "Session: 1")
            elif method == "PLAY":
                self._answer(client, number, "200 OK", "Session: 1")
                self.clients += 1
                if self._plays:
                    self._send(client, self._plays.pop(0))
                return
            else:
                self._answer(client, number, "200 OK", "Public: DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _answer(self, client, number, status, *headers, body=""):
        lines = [f"RTSP/1.0 {status}", f"CSeq: {number}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        client.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))

    def _send(self, client, play):
        sequence = 0
        for part in play:
            if not isinstance(part, bytes):
                time.sleep(part)
                continue
            for start in range(0, len(part), 7 * PACKET):
                load = part[start : start + 7 * PACKET]
                stamp = int(time.monotonic() * 90_000) & 0xFFFFFFFF
                header = bytes([0x80, 33]) + sequence.to_bytes(2, "big")
                header += stamp.to_bytes(4, "big") + bytes(4)
                packet = header + load
                client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                sequence = (sequence + 1) & 0xFFFF
