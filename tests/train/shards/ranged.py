"""A server of files on loopback that sends parts of them, and fails where a test says so."""

import re
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What was asked for, how many of the next answers fail, and how; bytes of slow answers."""

    def __init__(self):
        self.asked, self.failures, self.how, self.trickled = [], 0, "cut", 0
        self.address = ""


@contextmanager
def files_served(folder):
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            part = self.headers.get("Range")
            served.asked.append((self.path, part))
            if served.failures:
                served.failures -= 1
                if served.how == "cut":
                    self.send_response(206 if part else 200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"half")
                else:
                    self.send_error(int(served.how))
                return
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            if part and served.how != "whole":
                first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", part).groups())
                content = content[first : last + 1]
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if served.how != "slow":
                self.wfile.write(content)
                return
            with suppress(OSError):  # nobody waits any longer
                for byte in content[:40]:
                    self.wfile.write(bytes([byte]))
                    served.trickled += 1
                    time.sleep(0.05)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
