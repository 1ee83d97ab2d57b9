import threading
import time

import pytest

from e2e_deploy.runtime.sinks.streams.packing import Chunk
from e2e_deploy.runtime.sinks.streams.receiver import (
    MAX_RECEIVERS,
    MAX_WAITING,
    Audience,
    Receiver,
)


class Link:
    """Keeps what is sent; waits while ``open`` is not set, and fails once ``broken`` is."""

    def __init__(self):
        self.sent, self.closed = [], False
        self.open = threading.Event()
        self.open.set()
        self.broken = False

    def send(self, chunk):
        self.open.wait(10)
        if self.broken:
            raise ConnectionResetError(104, "Connection reset by peer")
        self.sent.append(chunk.parts[0])

    def close(self):
        self.closed = True
        self.open.set()


def started(*link_and_again):
    receiver = Receiver(*link_and_again)
    receiver.start()
    return receiver


def chunk(number, key=False):
    return Chunk((b"%d" % number,), key)


def until(true):
    until_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.002)


def test_everything_is_sent_in_order_and_the_end_too():
    link = Link()
    receiver = started(link)
    for number in range(10):
        receiver.put(chunk(number, key=number == 0))
    receiver.finish(chunk(99))
    receiver.end(5)
    assert link.sent == [b"%d" % n for n in (*range(10), 99)]
    assert (receiver.dropped, link.closed, receiver.gone) == (0, True, True)


def test_a_new_one_begins_at_a_key_frame():
    link = Link()
    receiver = started(link)
    assert receiver.wants_key
    receiver.put(chunk(0))
    receiver.put(chunk(1, key=True))
    assert not receiver.wants_key
    receiver.put(chunk(2))
    receiver.finish()
    receiver.end(5)
    assert link.sent == [b"1", b"2"]
    assert receiver.dropped == 0


def test_nothing_is_sent_before_it_is_started():
    link = Link()
    receiver = Receiver(link)
    receiver.put(chunk(0, key=True))
    assert not link.sent
    receiver.start()
    until(lambda: link.sent == [b"0"])
    receiver.finish()
    receiver.end(5)


def test_one_that_never_started_ends_too():
    link = Link()
    receiver = Receiver(link)
    receiver.put(chunk(0, key=True))
    receiver.finish(chunk(1))
    receiver.end(5)
    assert (link.sent, link.closed) == ([], True)


def test_a_slow_one_misses_frames_and_begins_again_at_a_key_frame():
    link = Link()
    link.open.clear()
    receiver = started(link)
    receiver.put(chunk(0, key=True))
    until(lambda: not receiver._waiting)  # it is being sent
    start = time.perf_counter()
    for number in range(1, MAX_WAITING + 6):
        receiver.put(chunk(number))
    assert time.perf_counter() - start < 5
    assert receiver.dropped == MAX_WAITING + 5
    assert not receiver.wants_key  # one that is slow makes nobody's frames larger
    link.open.set()
    receiver.put(chunk(100))
    receiver.put(chunk(101, key=True))
    receiver.put(chunk(102))
    receiver.finish()
    receiver.end(5)
    assert link.sent == [b"0", b"101", b"102"]


def test_one_that_leaves_is_gone():
    link = Link()
    link.broken = True
    receiver = started(link)
    receiver.put(chunk(0, key=True))
    until(lambda: receiver.gone)
    assert (link.closed, receiver.wants_key, receiver.dropped) == (True, False, 0)


def test_a_lost_one_is_opened_again():
    first, second = Link(), Link()
    tries = iter([OSError(111, "refused"), second])
    opened = threading.Event()

    def again():
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        opened.set()
        return found

    receiver = started(first, again)
    receiver.put(chunk(0, key=True))
    until(lambda: first.sent)
    first.broken = True
    receiver.put(chunk(1))
    until(lambda: receiver.lost)
    assert "reset" in receiver.lost
    receiver.put(chunk(2, key=True))
    assert opened.wait(10)
    until(lambda: not receiver.lost)
    assert receiver.wants_key
    receiver.put(chunk(3))
    receiver.put(chunk(4, key=True))
    receiver.finish()
    receiver.end(5)
    assert (first.sent, second.sent, first.closed) == ([b"0"], [b"4"], True)
    assert receiver.dropped == 2  # the one that failed, and the one while it was away


def test_the_end_does_not_wait_for_one_that_is_stuck_or_lost(monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.streams.receiver.PATIENCE_S", 0.3)
    stuck, lost = Link(), Link()
    stuck.open.clear()
    lost.broken = True

    def never():
        raise OSError(111, "refused")

    audience = Audience()
    receivers = [started(stuck), started(stuck), started(lost, never)]
    assert all(audience.add(receiver) for receiver in receivers)
    audience.put(chunk(0, key=True))
    until(lambda: receivers[2].lost)
    start = time.perf_counter()
    audience.close(chunk(1))
    assert time.perf_counter() - start < 8
    assert stuck.closed
    assert receivers[2].lost
    assert not audience.add(Receiver(Link()))


def test_there_are_only_so_many_and_a_place_becomes_free():
    audience = Audience()
    receivers = [started(Link()) for _ in range(MAX_RECEIVERS)]
    assert all(audience.add(receiver) for receiver in receivers)
    assert not audience.add(Receiver(Link()))
    receivers[0].dropped = 7
    audience.remove(receivers[0])
    assert audience.dropped == 7
    assert audience.add(started(Link()))
    audience.close(chunk(0))


@pytest.mark.parametrize("keys", [[True, False], [False, True], [False, False]])
def test_one_that_needs_a_key_frame_is_enough(keys):
    audience = Audience()
    for key in keys:
        receiver = started(Link())
        receiver.wants_key = key
        audience.add(receiver)
    assert audience.wants_key == any(keys)
    audience.close(chunk(0))
