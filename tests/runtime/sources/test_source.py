import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.source import BaseSource
from e2e_deploy.runtime.sources.uris import open_source


def refused(spec, match, kind=SourceError):
    with pytest.raises(kind, match=match) as caught:
        list(open_source(str(spec)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_says_a_thing_once_and_no_more_than_a_hundred():
    source = BaseSource("a")
    for count in range(300):
        source.note(f"frame {count // 2}\x1b[2J is odd")
    assert source.notes == [f"frame {count}\ufffd[2J is odd" for count in range(100)]
