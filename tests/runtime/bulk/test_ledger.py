"""The ledger: one writer at a time, whole files, and a damaged one is a sentence."""

import errno
import fcntl
import os

import pytest

from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.runtime.bulk.ledger import Ledger
from e2e_deploy.runtime.bulk.parcel import Failure, Parcel

PLAN = {"schema": 1, "pictures": 9}


def parcel(shard, written=3, failures=()):
    return Parcel(shard, written=written, failures=list(failures), seconds={"engine": 0.5})


def test_what_was_committed_is_there_again(tmp_path):
    failure = Failure(4, "a\nb\udcff.png", "damaged")
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0), parcel(2, 2, [failure])])
        ledger.commit([parcel(0), parcel(1)])  # a shard that comes twice counts once
        ledger.commit([])
    again = Ledger(tmp_path)
    with again.open(PLAN):
        assert again.done == {0, 1, 2}
        assert again.written == 8
        assert again.failures == {4: failure}
        again.commit([parcel(3)])
    assert sorted(p.name for p in (tmp_path / "_bulk" / "ledger").iterdir()) == [
        "000001.json",
        "000002.json",
        "000003.json",
    ]


def test_a_shard_in_two_files_counts_once(tmp_path):
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0)])
    segments = tmp_path / "_bulk" / "ledger"
    (segments / "000002.json").write_bytes((segments / "000001.json").read_bytes())
    again = Ledger(tmp_path)
    with again.open(PLAN):
        assert (again.done, again.written) == ({0}, 3)


def test_one_run_at_a_time(tmp_path):
    with (
        Ledger(tmp_path).open(PLAN),
        pytest.raises(UsageError, match="another bulk run"),
        Ledger(tmp_path).open(PLAN),
    ):
        pass
    with Ledger(tmp_path).open(PLAN):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shards": 3}', '{"shards": [{"shard": -1}]}', '{"shards": [[0]]}']
)
def test_a_damaged_ledger_is_a_sentence(tmp_path, text):
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0)])
    (tmp_path / "_bulk" / "ledger" / "000001.json").write_text(text)
    with pytest.raises(InputError, match="000001.json"), Ledger(tmp_path).open(PLAN):
        pass


def test_a_ledger_without_its_plan_is_not_taken_for_another_runs(tmp_path):
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0)])
    (tmp_path / "_bulk" / "plan.json").unlink()
    with pytest.raises(InputError, match=r"plan.json is missing"), Ledger(tmp_path).open(PLAN):
        pass


def test_what_cannot_be_locked_is_not_taken_for_another_run(tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch, pytest.raises(E2EDeployError, match="cannot be locked"):
        patch.setattr(fcntl, "flock", refuse)
        Ledger(tmp_path).open(PLAN).__enter__()
    (tmp_path / "_bulk" / "lock").unlink()
    (tmp_path / "_bulk" / "lock").mkdir()
    with pytest.raises(E2EDeployError, match="lock could not be written: Is a directory"):
        Ledger(tmp_path).open(PLAN).__enter__()


def test_very_many_failures_are_read_again(tmp_path):
    """A shard of 4096 damaged pictures with long names, and more such shards at once than a file may hold."""
    reason = "\u4e2d" * 1000
    failures = [[Failure(s * 4096 + n, "p", reason) for n in range(4096)] for s in range(2)]
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0, 0, failures[0]), parcel(1, 0, failures[1]), parcel(2), parcel(3)])
    again = Ledger(tmp_path)
    with again.open(PLAN):
        assert again.done == {0, 1, 2, 3}
        assert len(again.failures) == 8192
    assert len(list((tmp_path / "_bulk" / "ledger").iterdir())) == 2


def test_what_could_not_be_written_is_not_done(tmp_path, monkeypatch):
    def full(*given):
        raise E2EDeployError("No space left on device")

    with Ledger(tmp_path).open(PLAN) as ledger:
        with monkeypatch.context() as patch, pytest.raises(E2EDeployError, match="No space"):
            patch.setattr(ledger.output, "write", full)
            ledger.commit([parcel(0)])
        assert (ledger.done, ledger.written) == (set(), 0)
        ledger.commit([parcel(0, written=2)])
    again = Ledger(tmp_path)
    with again.open(PLAN):
        assert (again.done, again.written) == ({0}, 2)


def test_files_of_the_ledger_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    names = []

    def fsync(descriptor):
        names.append(sorted(p.name for p in (tmp_path / "_bulk").rglob("*.json")))

    monkeypatch.setattr(os, "fsync", fsync)
    with Ledger(tmp_path).open(PLAN) as ledger:
        ledger.commit([parcel(0)])
    seen = [[n for n in each if n[0] != "."] for each in names]
    assert [each for n, each in enumerate(seen) if n == 0 or each != seen[n - 1]] == [
        [],
        ["plan.json"],
        ["000001.json", "plan.json"],
    ]
