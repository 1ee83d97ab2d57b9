"""Items tried in a process apart: what ends it is named, the rest is read as ever."""

import pytest

from e2e_deploy.runtime.bulk import trial
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from e2e_deploy.runtime.bulk.parcel import Parcel, from_table, to_orders
from e2e_deploy.runtime.bulk.reading import read_shards
from tests.runtime.bulk.deadly import deadly_decoder, make_deadly
from tests.runtime.bulk.serial import write_pictures


@pytest.fixture
def items(tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", 6)
    for name in ("p001.png", "p005.png"):
        make_deadly(tmp_path / "in" / name, tmp_path / "in" / name)
    monkeypatch.setenv("PYTHONPATH", str(deadly_decoder(tmp_path / "site")))
    monkeypatch.setattr(trial, "_child", None)
    yield list_items(tmp_path / "in", None, None).items
    if trial._child is not None:
        trial._child.close()


def test_what_ends_the_process_is_named(items):
    reason = "its decoder ended the process (SIGABRT)"
    assert trial.deadly_items(items) == {1: reason, 5: reason}
    assert trial.deadly_items(items[:1]) == {}
    same = trial._child
    assert trial.deadly_items(items[2:5]) == {}
    assert trial._child is same, "one process serves all shards"


def test_shards_are_read_without_it(items):
    # In this process the decoder is the ordinary one, so what is not there was left out by the trial.
    table = to_orders([[Parcel(0, items[:3]), Parcel(1, items[3:])]])
    first, second = (from_table(each)[0] for each in read_shards(table, tries_first=True))
    assert [picture.item.index for picture in first.pictures] == [0, 2]
    assert [failure.index for failure in first.failures] == [1]
    assert [picture.item.index for picture in second.pictures] == [4]
    assert {failure.index: failure.reason[:13] for failure in second.failures} == {
        3: str(items[3].path)[:13],
        5: "its decoder e",
    }
