import os

import pytest

from e2e_deploy.runtime.sinks.growing import GrowingFile


def test_it_takes_its_place_when_it_is_finished(tmp_path):
    place = tmp_path / "new" / "a.mcap"
    file = GrowingFile(place)
    assert os.listdir(place.parent) == ["a.partial.mcap"]
    file.partial.write_text("one")
    assert file.finish() == place
    other = GrowingFile(place)
    other.partial.write_text("two")
    assert other.finish() == place
    assert os.listdir(place.parent) == ["a.mcap"]
    assert place.read_text() == "two"


def test_what_another_put_there_meanwhile_stays(tmp_path):
    place = tmp_path / "a.mcap"
    one, two = GrowingFile(place), GrowingFile(place)
    assert (one.partial.name, two.partial.name) == ("a.partial.mcap", "a.partial-2.mcap")
    one.partial.write_text("one")
    two.partial.write_text("two")
    assert (one.finish(), two.finish()) == (place, tmp_path / "a-2.mcap")
    assert (place.read_text(), (tmp_path / "a-2.mcap").read_text()) == ("one", "two")


def test_dropped_or_impossible(tmp_path):
    file = GrowingFile(tmp_path / "a.mcap")
    file.drop()
    file.drop()
    assert os.listdir(tmp_path) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="it is a folder, not a file"):
        GrowingFile(tmp_path / "folder")
