import threading
import time

from e2e_deploy.runtime.sinks.streams.packing import Chunk
from e2e_deploy.runtime.sinks.streams.rtsp.connection import InterleavedLink, RtspConnection


class Slow:
    """A socket that takes a byte at a time."""

    def __init__(self):
        self.sent = b""

    def sendall(self, data):
        for at in range(len(data)):
            self.sent += data[at : at + 1]
            time.sleep(0.001)


def test_packets_of_both_kinds_go_to_their_channels():
    """RTP to the one, RTCP to the other (RFC 2326, section 10.12)."""
    socket = Slow()
    media, report = b"\x80\xe0media", b"\x80\xc8report"
    link = InterleavedLink(RtspConnection(socket), (6, 9))
    link.send(Chunk((report, media), is_key=True))
    assert socket.sent == b"$\x09\0\x08" + report + b"$\x06\0\x07" + media


def test_what_one_thread_sends_is_not_within_what_another_sends():
    socket = Slow()
    connection = RtspConnection(socket)
    said = [bytes([letter]) * 40 for letter in b"abc"]
    threads = [threading.Thread(target=connection.send, args=(each,)) for each in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(socket.sent[at : at + 40] for at in (0, 40, 80)) == said
