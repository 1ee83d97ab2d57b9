"""Streams to receive."""

import threading
from contextlib import contextmanager

import pytest

from tests.filming import Filming


@pytest.fixture
def filming(manifests):
    """filming(address, ...): a Filming that runs, and ends its stream where the block ends."""

    @contextmanager
    def film(address, **how):
        camera = Filming(manifests["trained"], address, **how)
        stop = threading.Event()
        thread = threading.Thread(target=camera.film, args=(stop,))
        thread.start()
        try:
            yield camera
        finally:
            stop.set()
            thread.join()
            camera.sink.close()

    return film


@pytest.fixture
def still(manifests):
    """still(address, ...): a Filming whose frames the test writes."""
    return lambda address, **how: Filming(manifests["trained"], address, **how)
