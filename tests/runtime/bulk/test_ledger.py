"""The ledger: one writer at a time, whole files, and a damaged one is a sentence."""

import pytest

from e2e_deploy.errors import InputError, UsageError
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
        assert list(again.failures) == [4]
        assert again.failures[4].reason == "damaged"
        assert again.seconds == {"engine": 1.5}
        again.commit([parcel(3)])
    assert sorted(p.name for p in (tmp_path / "_bulk" / "ledger").iterdir()) == [
        "000001.json",
        "000002.json",
        "000003.json",
    ]


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
