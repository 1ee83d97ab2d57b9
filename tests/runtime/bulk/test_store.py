"""Stores: addresses, and what is wrong with them and with their stores, a sentence each that holds no secret."""

import socket
import threading

import pytest

from e2e_deploy.errors import E2EDeployError, SourceError, UsageError
from e2e_deploy.runtime.bulk import store as module
from e2e_deploy.runtime.bulk.store import Store, is_address, read_address
from tests.runtime.bulk import s3


@pytest.fixture(autouse=True)
def new(monkeypatch):
    """No store of another test, and Amazon's nowhere."""
    module._filesystem.cache_clear()
    for name, value in s3.variables("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    yield
    module._filesystem.cache_clear()


@pytest.fixture
def kept(monkeypatch):
    """A store in memory, of fsspec, which is one here because there is one process."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(module, "_HERE", ())
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()


def test_what_an_address_is():
    assert is_address("s3://bucket/in")
    assert not is_address("in/s3:/x")
    assert not is_address("C:/x")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://key:pass@bucket/in", "is no address of a store"),
        ("s3://bucket/in?secret_key=pass", "is no address of a store"),
        ("s3:///in", "is no address of a store"),
        ("file:///in", "of this machine or process alone"),
        ("memory://in/a", "of this machine or process alone"),
        ("simplecache::s3://bucket/in", "of this machine or process alone"),
        ("nosuch://bucket/in", "nosuch:// is no store that fsspec knows"),
    ],
)
def test_what_is_no_address_of_a_store_is_a_sentence(address, said):
    with pytest.raises(UsageError, match=said) as caught:
        Store(address)
    assert "pass" not in str(caught.value).replace("password", "")


def test_files_come_back_and_folders_are_listed_in_order(kept):
    store = Store("memory://bucket/in")
    for name in ("b.png", "a.png", "sub/c.png", ".hidden/d.png"):
        store.write(name, name.encode())
    assert store.folder().files == [("a.png", 5), ("b.png", 5)]
    assert store.folder().folders == [".hidden", "sub"]
    assert store.folder("sub").files == [("c.png", 9)]
    assert store.folder("none") == module.Folder([], [])
    assert store.read("sub/c.png", 9) == b"sub/c.png"
    assert read_address("memory://bucket/in/a.png", 100) == b"a.png"
    with pytest.raises(SourceError, match="in/sub/c.png holds 9 bytes, and at most 8 are read"):
        store.read("sub/c.png", 8)
    with pytest.raises(SourceError, match=r"^memory://bucket/in/none is missing$"):
        store.read("none", 8)


def test_a_store_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    store = Store("s3://bucket/in")
    with pytest.raises(SourceError, match=r"s3://bucket/in cannot be read: nobody answers"):
        store.folder()
    with pytest.raises(E2EDeployError, match=r"s3://bucket/in/a could not be written: nobody"):
        store.write("a", b"1")


def test_a_store_that_takes_and_says_nothing(monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 1)
    monkeypatch.setattr(module, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SourceError, match="does not answer in time"):
            Store("s3://bucket/in").folder()


def test_a_store_that_refuses_is_told_without_its_secrets(monkeypatch):
    """An answer that holds what was sent."""
    text = f"<Error><Code>Odd</Code><Message>{s3.SECRET}\x1b[1m</Message></Error>".encode()
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    monkeypatch.setattr(module, "TRIES", 1)

    def answer(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(text) + text)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(SourceError) as caught:
            Store("s3://bucket/in").folder()
    assert s3.SECRET not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "***" in str(caught.value)


@s3.needs_s3
def test_s3_itself(monkeypatch):
    with s3.server() as given:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        theirs = s3.bucket("bucket", given["AWS_ENDPOINT_URL"])
        store = Store("s3://bucket/in")
        assert store.folder() == module.Folder([], [])
        large = bytes(range(256)) * 60_000  # several parts
        for name, data in {"a b+ü%20.png": b"1", "sub/b.png": large}.items():
            store.write(name, data)
            assert store.read(name, 2**24) == data
            with theirs.open_input_file(f"bucket/in/{name}") as stream:
                assert stream.read() == data
        assert store.folder().files == [("a b+ü%20.png", 1)]
        with pytest.raises(SourceError, match=r"s3://nosuch/in cannot be read: there is no such"):
            Store("s3://nosuch/in").folder()
        with pytest.raises(E2EDeployError, match="there is no such bucket"):
            Store("s3://nosuch/in").write("a", b"1")
        with pytest.raises(SourceError, match="none is missing"):
            store.read("none", 8)
