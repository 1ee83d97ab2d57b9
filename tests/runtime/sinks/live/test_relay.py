"""A relay hands on every byte both ways, and can be cut while the other side takes nothing."""

import socket
import threading

import numpy as np
import pytest

from e2e_deploy.runtime.sinks.live.relay import Relay

LARGE = np.random.default_rng(0).bytes(5_000_000)


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def relay_to(server):
    """A relay, without the connection by which it tries whether the server answers."""
    relay = Relay(*server.getsockname())
    server.accept()[0].close()
    return relay


def joined(relay, server):
    """(client's end, server's end) of one connection."""
    client = socket.create_connection(("127.0.0.1", relay.port), 10)
    return client, server.accept()[0]


def read_all(end):
    end.settimeout(10)
    return b"".join(iter(lambda: end.recv(1_000_000), b""))


def test_every_byte_both_ways(server):
    relay = relay_to(server)
    client, there = joined(relay, server)
    found = {}
    readers = [
        threading.Thread(target=lambda: found.update(there=read_all(there))),
        threading.Thread(target=lambda: found.update(here=read_all(client))),
    ]
    for reader in readers:
        reader.start()
    there.sendall(b"hello")
    client.sendall(LARGE)
    client.shutdown(socket.SHUT_WR)
    readers[0].join(10)
    there.close()
    readers[1].join(10)
    relay.finish()
    client.close()
    assert found == {"there": LARGE, "here": b"hello"}


def test_one_that_takes_nothing(server):
    relay = relay_to(server)
    client, there = joined(relay, server)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.sendall(LARGE * 10)  # nobody reads: the buffers between are full
    relay.cut()
    client.settimeout(10)
    with pytest.raises(OSError, match=r"reset|pipe"):
        for _ in range(100):
            client.sendall(LARGE)
    client.close()
    there.close()


def test_a_connection_after_the_cut(server):
    relay = relay_to(server)
    relay.cut()
    with pytest.raises(OSError, match=r"refused|reset|timed"):
        socket.create_connection(("127.0.0.1", relay.port), 5).recv(1)


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        Relay("127.0.0.1", port)
