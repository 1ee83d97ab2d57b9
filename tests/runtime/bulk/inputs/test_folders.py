"""Folders as people have them: links, what cannot be read, other files; and lists as their programs write them."""

import os

import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs.listing import list_items


def made(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_folders_are_in_the_order_of_their_names(tmp_path):
    root = made(tmp_path, "b/z.png", "c/y.png", "a/x.png", "b/b/w.png")
    paths = [os.path.relpath(item.path, root) for item in list_items(root, None).items]
    assert paths == ["a/x.png", "b/z.png", "b/b/w.png", "c/y.png"]


def test_another_name_is_another_input(tmp_path):
    root = made(tmp_path, "a.png", "b.png")
    before = list_items(root, None).digest
    (root / "a.png").rename(root / "c.png")
    assert list_items(root, None).digest != before


def test_what_is_left_out_is_said(tmp_path):
    root = made(tmp_path / "in", "a.png", "note.txt", "inner/b.dat")
    made(tmp_path / "other", "c.png")
    (root / "linked").symlink_to(tmp_path / "other")
    (root / "round").symlink_to(root)
    listing = list_items(root, None)
    assert [item.name for item in listing.items] == ["a"]
    links, others = listing.notes
    assert f"not followed: 2 in {root}, such as {root / 'linked'}" in links
    assert others == f"2 files of {root} are not read, by their names"
    (root / "a.png").unlink()
    with pytest.raises(SourceError, match=r"holds no pictures .*links to folders are not followed"):
        list_items(root, None)


def test_linked_pictures_are_pictures_and_one_that_leads_nowhere_is_one_too(tmp_path):
    root = made(tmp_path / "in", "a.png")
    (root / "b.png").symlink_to(root / "a.png")
    (root / "c.png").symlink_to(tmp_path / "nothing")
    (root / "d.png").symlink_to(root / "d.png")
    assert [item.name for item in list_items(root, None).items] == ["a", "b", "c", "d"]


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    root, scandir = made(tmp_path, "a.png", "locked/b.png"), os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"the folder .*locked cannot be read: Permission denied"):
        list_items(root, None)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.csv", b'\xef\xbb\xbfpath,n\r\na.png,1\r\n\r\n"b\r\nc.png",2\r\n'),
        ("l.jsonl", b'\xef\xbb\xbf{"path": "a.png"}\n\n  \n{"path": "b\\r\\nc.png"}'),
    ],
)
def test_lists_with_a_mark_of_utf8_and_empty_lines(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    paths = [item.path for item in list_items(tmp_path / name, None).items]
    assert paths == [str(tmp_path / "a.png"), str(tmp_path / "b\r\nc.png")]
