"""Entries of tars, held against Python's tarfile; what is cut off or damaged is an error and nothing less."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.system.tars import tar_entries

NAMES = st.text("aü/._-", min_size=1, max_size=300).filter(lambda n: n[-1] != "/")
FORMATS = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def packed(files, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entries(path):
    with path.open("rb") as stream:
        return list(tar_entries(stream))


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5), st.sampled_from(FORMATS))
def test_entries_are_those_of_tarfile(tmp_path_factory, files, form):
    path = tmp_path_factory.mktemp("t") / "a.tar"
    data = packed(files, form)
    path.write_bytes(data)
    found = entries(path)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    assert [(e.name, e.offset, e.size) for e in found] == expected
    assert [data[e.offset : e.offset + e.size] for e in found] == [each for _, each in files]
    assert all(e.is_file for e in found)


@pytest.mark.parametrize("form", FORMATS)
def test_a_tar_that_is_cut_off_is_no_shorter_one(tmp_path, form):
    data = packed([("a" * 200, b"x" * 700), ("b", b"y" * 700)], form)
    path = tmp_path / "a.tar"
    end = len(data.rstrip(b"\0"))
    for length in range(0, end, 100):
        path.write_bytes(data[:length])
        with pytest.raises((ValueError, tarfile.HeaderError)):
            entries(path)


def test_folders_links_and_files_with_holes_are_no_files(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, told in (
            ("folder", tarfile.DIRTYPE, {}),
            ("link", tarfile.SYMTYPE, {}),
            ("holes", tarfile.REGTYPE, {"GNU.sparse.major": "1"}),
            ("file", tarfile.REGTYPE, {}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.pax_headers = kind, told
            tar.addfile(info)
    assert [e.name for e in entries(path) if e.is_file] == ["file"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_nothing_follows_a_link_whatever_size_it_tells(tmp_path, kind):
    path = tmp_path / "a.tar"
    link, file = tarfile.TarInfo("link"), tarfile.TarInfo("file")
    link.type, link.size, file.size = kind, 512, 3
    path.write_bytes(link.tobuf() + file.tobuf() + b"abc" + b"\0" * (509 + 1024))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data) for m in tar]
    assert [(e.name, e.offset) for e in entries(path)] == expected
    assert [name for name, _ in expected] == ["link", "file"]


def test_a_header_of_many_attributes_is_read(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("file")
        info.pax_headers = {"SCHILY.xattr.user.note": "n" * 2**17}
        tar.addfile(info)
    assert [e.name for e in entries(path)] == ["file"]


def test_a_header_that_never_ends_is_not_read(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(ValueError, match="a header of 8,589,934,592 bytes"):
        entries(path)


def test_a_size_beyond_a_header_is_that_of_pax(tmp_path):
    """As tars say the size of a file of 8 GiB or more."""
    told = tarfile.TarInfo("a")
    told.pax_headers = {"size": "700"}
    data = told.tobuf(tarfile.PAX_FORMAT) + b"x" * 700 + b"\0" * (324 + 1024)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    assert [(e.name, e.offset, e.size) for e in entries(path)] == expected
    assert expected[0][2] == 700


@pytest.mark.parametrize("size", [-512, 4096])
def test_a_size_that_cannot_be_is_refused(tmp_path, size):
    """One below 0 would lead back to where it was read."""
    info = tarfile.TarInfo("a")
    info.size = size
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(ValueError, match="'a' is cut off"):
        entries(path)
