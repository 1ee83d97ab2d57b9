"""Where live results go, as users write it."""

import pytest

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.sinks.live.addresses import Place, url_host
from e2e_deploy.runtime.sinks.live.rerun_sink import viewer_of
from e2e_deploy.runtime.sinks.targets import target_of


@pytest.mark.parametrize(
    ("out", "found"),
    [
        ("foxglove:", ("127.0.0.1", 8765)),
        ("foxglove:0", ("127.0.0.1", 0)),
        ("foxglove:65535", ("127.0.0.1", 65535)),
        ("foxglove:robot.local:99", ("robot.local", 99)),
        ("foxglove:[::1]:99?prefix=/a", ("::1", 99)),
    ],
)
def test_a_socket(out, found):
    assert Place.parse(out, ("prefix",)).socket(8765) == found


@pytest.mark.parametrize(
    "out",
    [
        *("foxglove:65536", "foxglove:-1", "foxglove:http", "foxglove::8765", "foxglove:a:b:1"),
        *("foxglove://127.0.0.1:8765", "foxglove:127.0.0.1", "foxglove:8765/x", "foxglove: 8765"),
        *("foxglove:٣", "foxglove:8765\n"),
    ],
)
def test_what_is_no_socket(out):
    with pytest.raises(UsageError, match=r"names no port: give \S+:PORT or"):
        Place.parse(out).socket(8765)


@pytest.mark.parametrize(
    "out",
    ["zenoh:?a=1", "zenoh:?prefix=", "zenoh:?prefix=/a&prefix=/b", "zenoh:?", "zenoh:?prefix"],
)
def test_settings_that_do_not_exist(out):
    with pytest.raises(UsageError, match=r"it may have prefix=..., each once"):
        Place.parse(out, ("prefix",))


def test_settings():
    assert Place.parse("zenoh:?prefix=/a%20b", ("prefix",)).settings == {"prefix": "/a b"}
    with pytest.raises(UsageError, match="it has none"):
        Place.parse("rerun:?x=1")


@pytest.mark.parametrize(
    ("out", "found"),
    [
        ("rerun:", ("127.0.0.1", 9876)),
        ("rerun:99", ("127.0.0.1", 99)),
        ("rerun+http://127.0.0.1:99/proxy", ("127.0.0.1", 99)),
        ("rerun+http://host/proxy", ("host", 9876)),
    ],
)
def test_a_viewer_of_rerun(out, found):
    assert viewer_of(out) == found


@pytest.mark.parametrize(
    "out",
    [
        *("rerun+http://host:x/proxy", "rerun+http:///proxy", "rerun+http://host/recording/1"),
        *("rerun+http://me:secret@host/proxy", "rerun+http://host/proxy?secret", "rerun+http:host"),
        *("rerun+http://host:99999/proxy", "rerun+http://[x/proxy", "rerun+https://host/proxy"),
    ],
)
def test_what_is_no_viewer_of_rerun(out):
    with pytest.raises(UsageError, match="is the address of no Rerun viewer") as caught:
        viewer_of(out)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("Foxglove:8765", "foxglove:"),
        ("rerun:", "rerun:"),
        ("rerun+http://h/proxy", "rerun:"),
        ("a/b.RRD", ".rrd"),
        ("zenoh:tcp/h:1", "zenoh:"),
    ],
)
def test_each_has_its_row(out, name):
    assert name in target_of(out).names


def test_what_is_a_path_stays_one():
    assert target_of("rerun") is None
    assert target_of("zenoh/out") is None
    assert target_of(".rrd") is None


def test_ipv6_in_brackets():
    assert (url_host("::1"), url_host("127.0.0.1")) == ("[::1]", "127.0.0.1")
