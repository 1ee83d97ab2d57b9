import errno
import fcntl
import json
import os

import pytest

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.train.protocol.measuring.rows import Row, RowLog, read_rows

EXPECTED = [(0, "a.png"), (3, "b.png"), (6, "c.png")]


def row(index, picture, value=0.1):
    return Row(index=index, picture=picture, ms=12.5, metrics={"abs_rel": value}, left_out=None)


def two_rows(path):
    with RowLog(path, EXPECTED) as log:
        log.append(row(0, "a.png", 1 / 3))
        log.append(Row(index=3, picture="b.png", ms=None, metrics=None, left_out="no valid pixel"))
    return log.rows


def test_rows_are_on_disk_at_once_and_picked_up(tmp_path):
    path, said = tmp_path / "model" / "rows.jsonl", []
    with RowLog(path, EXPECTED, said.append) as log:
        assert (log.rows, said) == ([], [])
        log.append(row(0, "a.png", 1 / 3))
        assert read_rows(path) == [row(0, "a.png", 1 / 3)]
    with RowLog(path, EXPECTED, said.append) as log:
        assert log.rows == [row(0, "a.png", 1 / 3)]
        log.append(row(3, "b.png"))
    assert read_rows(path) == [row(0, "a.png", 1 / 3), row(3, "b.png")]
    assert said == [f"{path}: 1 of 3 images were measured before"]


@pytest.mark.parametrize("left", [1, 10, -1])
def test_half_a_row_at_the_end_is_dropped(tmp_path, left):
    path = tmp_path / "rows.jsonl"
    rows = two_rows(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[0][:left])
    with RowLog(path, EXPECTED) as log:
        assert log.rows == rows
        assert path.read_bytes() == whole
        log.append(row(6, "c.png"))
    assert read_rows(path) == [*rows, row(6, "c.png")]


def test_rows_of_other_images_are_not_reused(tmp_path):
    path, said = tmp_path / "rows.jsonl", []
    two_rows(path)
    with RowLog(path, [(0, "a.png"), (1, "b.png")], said.append) as log:
        assert log.rows == []
    assert said == [f"{path} has rows of other images; measured anew"]
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b'{"index": 0}',
        b'{"index": -1, "picture": "a.png", "ms": 1.0, "metrics": null, "left_out": null}',
        b'{"index": 0, "picture": "a.png", "ms": 1.0, "metrics": {"x": "y"}, "left_out": null}',
        b"[" * 5000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_line_is_a_sentence_and_measured_anew(tmp_path, line):
    path, said = tmp_path / "rows.jsonl", []
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match="line 1"):
        read_rows(path)
    with RowLog(path, EXPECTED, said.append) as log:
        assert log.rows == []
    assert said[0].endswith("; measured anew")


def test_keep_drops_rows_from_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = two_rows(path)
    with RowLog(path, EXPECTED) as log:
        log.keep(1)
        log.append(row(3, "b.png", 0.5))
    assert read_rows(path) == [rows[0], row(3, "b.png", 0.5)]


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    two_rows(path)
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another process measures this"):
        RowLog(path, EXPECTED)
    os.close(other)
    assert len(read_rows(path)) == 2


def test_a_file_system_without_locks_does(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert len(two_rows(tmp_path / "rows.jsonl")) == 2


def test_what_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("folder.jsonl", "link.jsonl", "pipe.jsonl"):
        with pytest.raises(E2EDeployError, match="could not be written"):
            RowLog(tmp_path / name, EXPECTED)
    assert not (tmp_path / "victim").exists()


def test_every_line_is_json(tmp_path):
    two_rows(tmp_path / "rows.jsonl")
    first, second = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert first["metrics"] == {"abs_rel": 1 / 3}
    assert second["left_out"] == "no valid pixel"
