import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.sinks.streams.address import parse_address

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
HOSTS = st.text("abcdefgh", min_size=1, max_size=12)
KEYS = st.text("0123456789", min_size=6, max_size=12)
SECRETS = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ", min_size=6, max_size=12)


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "listen", "name"),
    [
        ("udp://239.1.1.1:5000", "239.1.1.1", 5000, "", False, "udp://239.1.1.1:5000"),
        ("tcp://host:9/", "host", 9, "", False, "tcp://host:9"),
        ("tcp://127.0.0.1:0?listen", "127.0.0.1", 0, "", True, "tcp://127.0.0.1:0"),
        ("TCP://[::1]:9000?listen=1", "::1", 9000, "", True, "tcp://[::1]:9000"),
        ("rtsp://host/a/b", "host", 554, "/a/b", False, "rtsp://host:554/***"),
        ("rtsp://host/a?k=v", "host", 554, "/a?k=v", False, "rtsp://host:554/***"),
        ("rtsp://h:1/a?k=v&listen", "h", 1, "/a?k=v", True, "rtsp://h:1/***"),
        ("rtsp://127.0.0.1?listen", "127.0.0.1", 8554, "", True, "rtsp://127.0.0.1:8554"),
    ],
)
def test_what_an_address_says(text, host, port, path, listen, name):
    address = parse_address(text)
    assert (address.host, address.port, address.path) == (host, port, path)
    assert (address.listen, address.name) == (listen, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("udp://host", "needs a host and a port: udp://HOST:PORT"),
        ("tcp://host:0", "needs a host and a port"),
        ("tcp://:9000?listen", "which part is the host, as SCHEME://HOST:PORT"),
        ("tcp://host:70000", "has no port from 0 to 65535"),
        ("udp://host:9?pkt_size=1316", "of udp there are a host and a port"),
        ("tcp://host:9/path", "or ?listen after the port"),
        ("tcp://u:s3cret@host:9", "of tcp there are a host and a port"),
        ("udp://host:9?listen", "udp has no connections to listen for"),
        ("rtsp://host/a b", "characters that an address has as codes"),
        ("rtsp://host/ä", "characters that an address has as codes"),
        ("rtsp://host/a\r\nX: y", "characters that an address has as codes"),
        ("rtsp://u:s3cr/et@host/a", "which part is the host"),
    ],
)
def test_other_addresses_are_refused(text, said):
    with pytest.raises(UsageError) as refused:
        parse_address(text)
    assert said in str(refused.value)
    assert "cret" not in str(refused.value)
    assert str(refused.value).isprintable()


@given(NAMES, SECRETS, HOSTS, KEYS)
def test_what_may_be_a_password_is_not_in_the_name(user, password, host, key):
    address = parse_address(f"rtsp://{user}:{password}@{host}.example:8554/{key}?key={key}")
    assert (address.user, address.password) == (user, password)
    for text in (address.name, repr(address)):
        assert password not in text
        assert key not in text
    assert password not in address.url
    assert address.name == f"rtsp://***@{host}.example:8554/***"


def test_credentials_are_decoded():
    address = parse_address("rtsp://a%40b:p%2Fq%3A@host/x")
    assert (address.user, address.password) == ("a@b", "p/q:")
