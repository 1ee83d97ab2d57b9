import io
import os
import tarfile

import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.train.protocol.layouts import set_files
from e2e_deploy.train.protocol.layouts.set_files import open_files


def archive(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_folder_and_its_archive_are_the_same_files(tmp_path):
    contents = {"a/x.png": b"1", "a/b/y.npy": b"22", "z": b""}
    for name, content in contents.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "set" / "a" / ".hidden").write_bytes(b"no")
    hidden = {"./a/.hidden": b"no", "./a/._x.png": b"what macOS adds"}
    packed = {f"./{name}": content for name, content in contents.items()}
    tar = archive(tmp_path / "set.tar", hidden | packed)
    for files in (open_files(tmp_path / "set"), open_files(tar)):
        assert files.names() == set(contents)
        assert {name: files.read(name) for name in contents} == contents


def test_only_regular_members_count_and_nothing_is_written(tmp_path):
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("link", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("../../outside.png", "inside.png"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert open_files(path).names() == {"inside.png"}
    assert os.listdir(tmp_path) == ["set.tar"]


def test_a_file_that_tar_stored_once_for_two_names_has_both(tmp_path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(b"content")
    os.link(one, two)
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        for file in (one, two):
            tar.add(file, f"./a/{file.name}")
        assert tar.getmembers()[1].islnk()
    files = open_files(path)
    assert files.names() == {"a/one.png", "a/two.png"}
    assert files.read("a/two.png") == b"content"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable tar archive"),
        (b"no tar" * 500, "not a readable tar archive"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_archive_is_a_sentence(tmp_path, content, said):
    path = tmp_path / "set.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_files(path)


def test_a_compressed_archive_has_to_be_extracted(tmp_path):
    path = archive(tmp_path / "set.tar", {"x": b"1"}, "w:gz")
    with pytest.raises(DataError, match="has to be extracted first"):
        open_files(path)


def test_an_archive_that_ends_early_is_a_sentence(tmp_path):
    path = archive(tmp_path / "set.tar", {"x.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"set\.tar"):
        open_files(path).read("x.png")


def test_an_archive_that_shrank_after_it_was_opened_is_a_sentence(tmp_path):
    path = archive(tmp_path / "set.tar", {"x.png": bytes(5000)})
    files = open_files(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"set\.tar/x\.png: the archive ends in the middle of it"):
        files.read("x.png")


def test_members_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(set_files, "MAX_MEMBERS", 3)
    path = archive(tmp_path / "set.tar", {str(i): b"" for i in range(5)})
    with pytest.raises(DataError, match="more than 3 members"):
        open_files(path)


def test_a_member_too_large_to_be_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(set_files, "MAX_BYTES", 10)
    files = open_files(archive(tmp_path / "set.tar", {"x": bytes(11)}))
    with pytest.raises(DataError, match="at most 10 are read"):
        files.read("x")
