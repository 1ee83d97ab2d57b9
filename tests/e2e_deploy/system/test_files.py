import os
import socket
import stat
from pathlib import Path

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.system.files import (
    new_partial,
    open_regular,
    read_bytes,
    remove_partials,
    whole_file,
)
from e2e_deploy.system.whole_folder import whole_folder


def test_the_file_appears_at_the_end_with_ordinary_rights(tmp_path):
    path = tmp_path / "new" / "a.b.txt"
    with whole_file(path) as partial:
        assert partial.suffix == ".txt"
        assert partial.parent == path.parent
        partial.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_an_unfinished_file_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.bin"
    path.write_text("old")
    with (
        full_disk(1000),
        pytest.raises(E2EDeployError, match="a.bin could not be written: File too large"),
        whole_file(path) as partial,
    ):
        partial.write_bytes(bytes(5000))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(E2EDeployError, match="could not be written"),
        whole_file(tmp_path / "file" / "a.txt"),
    ):
        pytest.fail("the block must not run")


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", denied)  # root may write everywhere
    with pytest.raises(E2EDeployError, match="Permission denied"), whole_file(tmp_path / "a.txt"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_holds_and_is_never_another_one(tmp_path, monkeypatch, mask):
    old = os.umask(mask)
    try:
        monkeypatch.setattr("os.umask", lambda mask: pytest.fail("other threads make files too"))
        with whole_file(tmp_path / "a.txt") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o666 & ~mask
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask
    finally:
        monkeypatch.undo()
        os.umask(old)


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "0")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.0.txt").symlink_to("victim")
    with (
        pytest.raises(E2EDeployError, match="could not be written: File exists"),
        whole_file(tmp_path / "a.txt"),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / ".a.0.txt").is_symlink()


def test_a_link_is_replaced_and_its_file_kept(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a.txt").symlink_to("victim")
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("a" * 251 + ".txt")
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def special(folder: Path, kind: str) -> Path:
    """Something that is not a regular file."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(folder)  # a socket's address has 108 bytes
            server.bind(kind)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


SPECIAL = {
    "pipe": "a named pipe",
    "socket": "a socket",
    "folder": "a folder",
    "device": "a device",
}


@pytest.mark.timeout(5)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = special(tmp_path, kind)
    for read in (open_regular, lambda path: read_bytes(path, 10)):
        with pytest.raises(OSError, match=f"it is {SPECIAL[kind]}, not a regular file"):
            read(path)


@pytest.mark.parametrize("inner", ["a.txt", "deep/a.txt"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, inner):
    (tmp_path / "photo.jpg").write_text("in the way")
    path = tmp_path / "photo.jpg" / inner
    with (
        pytest.raises(
            E2EDeployError, match=r"could not be written: .*/photo\.jpg is not a folder$"
        ),
        whole_file(path),
    ):
        pytest.fail("the block must not run")
    with (
        pytest.raises(
            E2EDeployError, match=r"could not be written: .*/photo\.jpg is not a folder;"
        ),
        whole_folder(path, lambda root: ()),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = special(tmp_path, kind)
    before = path.lstat()
    with (
        pytest.raises(E2EDeployError, match=f"could not be written: it is {SPECIAL[kind]}"),
        whole_file(path),
    ):
        pytest.fail("the block must not run")
    assert path.lstat() == before


def test_reading_ends_at_the_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(10)))
    assert read_bytes(path, 10) == bytes(range(10))
    with pytest.raises(OSError, match="it holds 10 bytes, and at most 9 are read"):
        read_bytes(path, 9)
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes"):
        read_bytes(path, 1 << 20)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "missing", 9)


def test_a_partial_file_is_always_a_new_one(tmp_path):
    (tmp_path / "a.partial.mp4").write_text("survived a kill")
    (tmp_path / "a.partial-2.mp4").symlink_to("victim")
    assert new_partial(tmp_path / "a.mp4").name == "a.partial-3.mp4"
    assert new_partial(tmp_path / "a.mp4").name == "a.partial-4.mp4"
    assert (tmp_path / "a.partial.mp4").read_text() == "survived a kill"
    assert not (tmp_path / "victim").exists()


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    left = []
    for name in ("a.png", "b", "n" * 200 + ".json", "line\nend.png"):
        with pytest.raises(KeyboardInterrupt), whole_file(inner / name) as partial:
            left.append(partial.rename(partial))
            raise KeyboardInterrupt
    for path in left:
        path.touch()
    (inner / ".a.0123456z.png").touch()
    (inner / ".hidden.png").touch()
    (inner / "a.01234567.png").touch()
    remove_partials(tmp_path)
    assert {p.name for p in inner.iterdir()} == {".a.0123456z.png", ".hidden.png", "a.01234567.png"}
