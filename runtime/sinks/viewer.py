"""A browser view of a run, on this machine only: http://127.0.0.1:PORT, the frame beside its coloured result.

Clients get the newest picture when they are ready for one, so slow ones skip pictures and cost no memory. Requests must
name this machine as their host, so that no other web page can reach the view through a name of its own, and must not be
made by another site's page: it could show the pictures, or draw conclusions from their sizes.
"""

import json
import os
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import UnavailableError
from e2e_deploy.names import COLORMAPS
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sinks.sink import Painter, Rgb
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.json_files import to_json
from e2e_deploy.system.opencv import cv2

HOST = "127.0.0.1"
MAX_CLIENTS = 8
MAX_BODY = 1024
STUCK_S = 5.0  # a client that takes no byte for so long is cut off
LOOK_S = 0.5  # while no picture comes: how often it is looked whether a client is still there
JPEG_QUALITY = 85
BOUNDARY = "frame"


class ViewerSink:
    """Serves the newest result to browsers.

    Args:
        port: 0 takes a free one.
        manifest: the bundle's, for what is told.
        painter: colours the results; the page changes its colour map and range.

    Attributes:
        url: of the page.

    Raises:
        UnavailableError: the port is taken.
    """

    on_main_thread = False

    def __init__(self, port: int, manifest: Manifest, painter: Painter) -> None:
        self._painter, self._task = painter, manifest.task
        self._has_distances = any(kind.form == "distance" for kind in manifest.kinds)
        self._changed = threading.Condition()
        self._encoding = threading.Lock()
        self._picture: Rgb | None = None
        self._number, self._jpeg = 0, (0, b"")
        self._times: deque[float] = deque(maxlen=30)
        self._report: RunReport | None = None
        self._closed = False
        self.clients: set[socket.socket] = set()
        try:
            self._server = _Server((HOST, port), self)
        except OSError as error:
            raise UnavailableError(
                f"the viewer cannot use port {port}: {error.strerror}; name another one, 0 takes any that is free"
            ) from None
        self.url = f"http://{HOST}:{self._server.server_port}"
        self.name = f"viewer {self.url}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="e2e-deploy viewer", daemon=True
        )
        self._thread.start()

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Keep one picture for whoever is ready."""
        picture = np.concatenate([frame.rgb, self._painter(result, facts)], axis=1)
        with self._changed:
            self._picture = picture
            self._number += 1
            self._times.append(time.monotonic())
            self._changed.notify_all()

    def look(self, report: RunReport) -> None:
        """Take the run's report for the page; fits ``on_frame`` of a run."""
        self._report = report

    def newer(self, than: int) -> tuple[int, bytes] | None:
        """(number, JPEG) of a picture newer than ``than``; (than, b"") after LOOK_S without one; None at the end."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._closed or self._number > than, LOOK_S)
            if self._closed:
                return None
            if not came:
                return than, b""
            number, picture = self._number, self._picture
        with self._encoding:  # once for all clients, and not in the sink's thread
            if self._jpeg[0] < number and picture is not None:
                quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
                _, data = cv2.imencode(".jpg", picture[..., ::-1], quality)
                self._jpeg = number, data.tobytes()
            return self._jpeg

    def status(self) -> dict[str, Any]:
        """What the page shows."""
        report, times = self._report, list(self._times)
        latency, age = (report.latency, report.age) if report else (None, None)
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return {
            "task": self._task,
            "distances": self._has_distances,
            "frames": self._number,
            "fps": (len(times) - 1) / span if span > 0 else 0.0,
            "engine": vars(latency) if latency else None,
            "age": vars(age) if age else None,
            "dropped": report.dropped if report else 0,
            "clients": len(self.clients),
            "parity": report.parity.words() if report and report.parity else "",
            "note": self._painter.note,
            "colormap": self._painter.colormap,
            "colormaps": list(COLORMAPS),
            "range": self._painter.fixed,
        }

    def set(self, wanted: Any) -> bool:
        """Change colour map and display range as the page asks; False when that makes no sense."""
        if not isinstance(wanted, dict) or wanted.get("colormap") not in COLORMAPS:
            return False
        bounds = wanted.get("range")
        if bounds is not None:
            numbers = isinstance(bounds, list) and all(type(b) in (int, float) for b in bounds)
            if not numbers or len(bounds) != 2 or not all(isfinite(b) for b in bounds):
                return False
            if bounds[0] >= bounds[1]:
                return False
        self._painter.colormap = wanted["colormap"]
        self._painter.fixed = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        return True

    def close(self) -> list[Path]:
        """End the server and every connection; no file was written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for client in list(self.clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        return []


# Of every answer: what the page may do, and that no other page may show it or what belongs to it.
_GUARDS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A run that was restarted finds its old connections in TIME_WAIT. Elsewhere the option would share a used port.
    allow_reuse_address = os.name == "posix"
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], sink: ViewerSink) -> None:
        self.sink = sink
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = STUCK_S  # of every read and write on the connection
    server_version, sys_version = "e2e-deploy", ""

    def log_message(self, format: str, *args: Any) -> None:
        """The run has its own status line."""

    def _is_ours(self) -> bool:
        """Whether the request names this machine, and comes from our own page if from any."""
        port = self.server.server_port
        hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
        if port == 80:  # which browsers leave out
            hosts += [HOST, "localhost"]
        origin = self.headers.get("Origin")
        return (
            self.headers.get("Host") in hosts
            and (origin is None or urlsplit(origin).netloc in hosts)
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )

    def _head(self, code: int, kind: str, *lines: tuple[str, str]) -> None:
        self.send_response(code)
        for line in (("Content-Type", kind), *lines, *_GUARDS):
            self.send_header(*line)
        self.end_headers()

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self._head(code, kind, ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def do_GET(self) -> None:
        """The page, the pictures or the status."""
        sink, path = self.server.sink, urlsplit(self.path).path
        if not self._is_ours():
            self._answer(403, "text/plain", b"this view is for this machine only\n")
        elif path == "/":
            page = (files("e2e_deploy.runtime.sinks") / "viewer.html").read_bytes()
            self._answer(200, "text/html; charset=utf-8", page)
        elif path == "/status":
            self._answer(200, "application/json", to_json(sink.status()).encode())
        elif path == "/stream":
            self._stream(sink)
        else:
            self._answer(404, "text/plain", b"there is nothing here\n")

    def do_POST(self) -> None:
        """A change of colours."""
        length = self.headers.get("Content-Length", "")
        if not self._is_ours():
            self._answer(403, "text/plain", b"this view is for this machine only\n")
        elif urlsplit(self.path).path != "/set":
            self._answer(404, "text/plain", b"there is nothing here\n")
        elif not length.isdigit() or int(length) > MAX_BODY:
            self._answer(413, "text/plain", b"too much\n")
        else:
            try:
                wanted = json.loads(self.rfile.read(int(length)))
            except ValueError:
                wanted = None
            done = self.server.sink.set(wanted)
            self._answer(200 if done else 400, "text/plain", b"ok\n" if done else b"no\n")

    def _stream(self, sink: ViewerSink) -> None:
        if len(sink.clients) >= MAX_CLIENTS:
            self._answer(503, "text/plain", b"too many viewers\n")
            return
        sink.clients.add(self.connection)
        try:
            self._head(200, f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            number = 0
            while (found := sink.newer(number)) is not None:
                number, jpeg = found
                if jpeg:
                    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                elif select.select([self.connection], [], [], 0)[0]:
                    break  # it left; or it speaks, which no browser does here
        except OSError:  # gone, or stuck for STUCK_S
            self.close_connection = True
        finally:
            sink.clients.discard(self.connection)
            self.close_connection = True
