import pytest

from tests.videos import index_in_front, real_clip


@pytest.fixture(scope="session")
def bikes():
    return real_clip()


@pytest.fixture(scope="session")
def streamable(bikes, tmp_path_factory):
    """The same clip with its index in front, as videos for the web have it."""
    return index_in_front(bikes, tmp_path_factory.mktemp("clips") / "streamable.mp4")
