"""Files are on the disk before they have their names, and their names before the ledger hears of them."""

import errno
import os
import stat

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.bulk.outputs import folder
from e2e_deploy.runtime.bulk.outputs.folder import FolderOutput

FILES = [("a.png", b"one"), ("in/ner/b.json", b"two")]


def test_files_and_then_folders_are_flushed(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        told = os.fstat(descriptor)
        there = {p.name for p in tmp_path.rglob("*") if p.is_file()}
        flushed.append((stat.S_ISDIR(told.st_mode) or told.st_size, there & {"a.png", "b.json"}))

    monkeypatch.setattr(folder.os, "fsync", fsync)
    FolderOutput(tmp_path).write(FILES)
    assert flushed[:2] == [(3, set()), (3, {"a.png"})]
    assert flushed[2:] == [(True, {"a.png", "b.json"})] * 3
    assert (tmp_path / "in/ner/b.json").read_bytes() == b"two"


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.ENOSPC, True)])
def test_disks_whose_folders_cannot_be_flushed(tmp_path, monkeypatch, code, fails):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder.os, "fsync", fsync)
    if fails:
        with pytest.raises(E2EDeployError, match="No space left"):
            FolderOutput(tmp_path).write(FILES)
    else:
        FolderOutput(tmp_path).write(FILES)
    assert (tmp_path / "a.png").read_bytes() == b"one"
