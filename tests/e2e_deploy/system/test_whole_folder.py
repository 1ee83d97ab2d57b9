import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.system.whole_folder import whole_folder

NAMES = ("a", "inner/b", "mark")


def contents(root):
    if not (root / "mark").is_file():
        raise UsageError(f"{root} has no mark")
    return NAMES


def fill(root, text):
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "x", "old")
    return tmp_path / "x"


def refused(path, match):
    with pytest.raises(UsageError, match=match), whole_folder(path, contents):
        pytest.fail("the block must not run")


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_nothing_an_empty_folder_and_one_of_its_kind_are_replaced(folder):
    (folder.parent / "empty").mkdir()
    for name in ("x", "empty", "new/deep"):
        with whole_folder(folder.parent / name, contents) as partial:
            fill(partial, "new")
        assert (folder.parent / name / "inner/b").read_text() == "new"
    assert names(folder.parent) == ["empty", "new", "x"]


def test_files_the_current_folder_and_links_to_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "exists and is no folder")
    refused(Path("/dev/null"), "exists and is no folder")
    refused(Path("/proc"), "is a mount point")
    monkeypatch.chdir(folder)
    refused(Path(), "is the current folder")
    assert (folder / "a").read_text() == "old"


def test_through_a_link_its_target_is_replaced(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(folder)
    with whole_folder(link, contents) as partial:
        fill(partial, "new")
    assert link.is_symlink()
    assert (folder / "a").read_text() == "new"
    assert names(tmp_path / "elsewhere") == ["link"]


def test_when_the_last_step_fails_the_old_one_is_put_back(folder, monkeypatch):
    rename = os.rename

    def fails(source, target):
        if ".partial-" in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with (
        pytest.raises(E2EDeployError, match="No space left on device; nothing was changed"),
        whole_folder(folder, contents) as partial,
    ):
        fill(partial, "new")
    assert (folder / "a").read_text() == "old"
    assert names(folder.parent) == ["x"]


def test_a_file_added_while_the_new_one_was_written_is_kept(folder):
    notes = []
    with whole_folder(folder, contents, notes.append) as partial:
        fill(partial, "new")
        (folder / "inner" / "mine").write_text("mine")
    assert (folder / "a").read_text() == "new"
    (kept,) = folder.parent.glob(".x.old-*/inner/mine")
    assert kept.read_text() == "mine"
    assert notes == [f"{kept.parents[1]} keeps what was added to {folder} while it was written"]


def test_a_partial_of_a_living_process_is_not_touched(folder):
    with whole_folder(folder, contents) as one:
        fill(one, "one")
        with whole_folder(folder, contents) as other:
            fill(other, "other")
        assert (folder / "a").read_text() == "other"
        assert (one / "a").read_text() == "one"
    assert (folder / "a").read_text() == "one"
    assert names(folder.parent) == ["x"]


CHILD = """
import os, pathlib, signal, sys, time
from e2e_deploy.cli.signals import ending_like_ctrl_c
from e2e_deploy.system.whole_folder import whole_folder

rename, number = os.rename, int(sys.argv[2])
for ending in (signal.SIGTERM, signal.SIGHUP):  # whatever the starter of the tests ignores
    signal.signal(ending, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

def killed(source, target):
    if ".partial-" in str(source):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.rename = killed
with ending_like_ctrl_c(), whole_folder(pathlib.Path(sys.argv[1]), lambda root: ["a"]) as partial:
    (partial / "a").write_text("x" * 1000)
    if number:
        os.kill(os.getpid(), number)
        time.sleep(10)
"""


def child(path, number):
    command = [sys.executable, "-c", CHILD, path, str(number)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_next_one_removes_what_a_killed_process_left_and_says_so(tmp_path):
    assert child(tmp_path / "x", signal.SIGKILL.value).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    notes = []
    with whole_folder(tmp_path / "x", contents, notes.append) as partial:
        assert not left.exists()
        fill(partial, "new")
    assert notes == [
        f"{left} was removed: 0.0 MB that a killed process had half written",
    ]
    assert names(tmp_path) == ["x"]


def test_an_old_one_put_aside_by_a_killed_process_is_brought_back(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    assert child(tmp_path / "x", 0).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    notes = []
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "x", lambda _: ["a"], notes.append):
        assert (tmp_path / "x" / "a").read_text() == "old"
        raise RuntimeError
    assert "was removed" in notes[0]
    assert notes[1].endswith("x was brought back: a process was killed while it replaced it")
    assert names(tmp_path) == ["x"]


def test_the_rest_of_an_old_one_is_removed_but_for_what_is_not_its_own(folder):
    left = folder.with_name(".x.old-0123abcd")
    fill(left, "older")
    (left / "a").unlink()
    lookalike = folder.with_name(".x.old-notes")
    lookalike.mkdir()
    link = folder.with_name(".x.partial-0123abcd")
    link.symlink_to(lookalike)
    with whole_folder(folder, contents) as partial:
        fill(partial, "new")
    assert names(folder.parent) == [".x.old-notes", ".x.partial-0123abcd", "x"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(tmp_path, number):
    done = child(tmp_path / "x", number.value)
    assert "KeyboardInterrupt" in done.stderr
    assert list(tmp_path.iterdir()) == []
