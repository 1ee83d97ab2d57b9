"""The way from one thread to the next: a bounded queue that either makes its writer wait or keeps only the newest."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lane(Generic[T]):
    """At most ``capacity`` items, in order, for one writer and one reader.

    Args:
        capacity: items it holds.
        newest: a full lane drops its oldest item (live sources); otherwise the writer waits (files: nothing is lost).

    Attributes:
        dropped: items that a newer one pushed out.
    """

    def __init__(self, capacity: int, *, newest: bool) -> None:
        self._items: deque[T] = deque()
        self._capacity, self._newest = capacity, newest
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    @property
    def closed(self) -> bool:
        """Whether it takes nothing more."""
        return self._closed

    @property
    def waits(self) -> bool:
        """Whether ``get`` would have to wait."""
        return not (self._closed or self._items)

    def put(self, item: T) -> bool:
        """Add an item; False, and the item is not taken, once the lane is closed."""
        with self._changed:
            if self._newest and len(self._items) == self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """The oldest item, as soon as there is one; None when the lane is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more; what is inside is still read, unless ``discard``. A second call may discard."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()
