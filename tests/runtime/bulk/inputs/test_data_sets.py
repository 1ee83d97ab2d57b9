"""LeRobot data sets in a bulk run: the files of ``run``, whether pictures are in videos or in rows."""

import pyarrow.parquet as pq
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.bulk.inputs import data_sets
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from e2e_deploy.runtime.sources.lerobot.pictures import VideoPictures
from e2e_deploy.runtime.sources.lerobot.source import is_data_set
from e2e_deploy.runtime.sources.lerobot.tables import rows_from
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.lerobot_program import CAMERAS, LENGTHS
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import results_of, without_ray
from tests.runtime.sources.lerobot.test_lerobot_source import ROWS, VIDEO, set_value
from tests.runtime.sources.test_video_stretches import OPEN, moving
from tests.videos import write_video

COUNT = sum(LENGTHS)


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "depth", sizes=((48, 64),))


def in_small_groups(root):
    """The rows again, two a group, as long episodes have many groups."""
    pq.write_table(pq.read_table(root / ROWS), root / ROWS, row_group_size=2)


@pytest.mark.parametrize("most", [2, 256])
@pytest.mark.parametrize("kind", ["videos_set", "images_set"])
def test_the_files_of_run(request, bundle, tmp_path, monkeypatch, kind, most):
    without_ray(monkeypatch, order=reversed)
    monkeypatch.setattr(data_sets, "MOST", most)
    root = request.getfixturevalue(kind)
    in_small_groups(root)
    report = e2e.bulk(root, bundle, tmp_path / "out", topic=CAMERAS[0], shard=3)
    e2e.run(root, bundle, topic=CAMERAS[0], out=tmp_path / "ref", formats="png16")
    found = results_of(tmp_path / "out")
    assert len(found) == 2 * COUNT
    assert found == results_of(tmp_path / "ref")
    assert report.complete


def test_in_a_folder_a_data_set_is_one_and_its_files_are_none(videos_set, tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    videos_set.rename(folder / "a set")
    assert is_data_set(folder / "a set")
    listing = list_items(folder, None, CAMERAS[1])
    assert {item.folder for item in listing.items} == {"a set"}
    assert len(listing.items) == COUNT
    assert listing.digest != list_items(folder, None, CAMERAS[0]).digest
    with pytest.raises(UsageError, match="`topic` says which"):
        list_items(folder, None)
    moved = folder.rename(tmp_path / "elsewhere")
    assert listing.digest == list_items(moved, None, CAMERAS[1]).digest


def test_a_damaged_picture_costs_itself_alone(images_set, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    path = images_set / ROWS
    table = pq.read_table(path)
    at = table.column_names.index(CAMERAS[0])
    damaged = set_value(4, {"bytes": b"no picture", "path": "x"})(table.column(CAMERAS[0]))
    pq.write_table(table.set_column(at, table.field(at), damaged), path)
    report = e2e.bulk(images_set, bundle, tmp_path / "out")
    (failure,) = report.failures
    assert (failure.index, failure.path) == (4, f"{images_set}#4")
    assert "episode-000000-frame-000004 of" in failure.reason
    assert report.written == COUNT - 1


def test_a_video_that_is_shorter_than_said(videos_set, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    path = videos_set / VIDEO
    write_video(path, moving(7, 48, 64))
    report = e2e.bulk(videos_set, bundle, tmp_path / "out", topic=CAMERAS[0])
    assert [failure.index for failure in report.failures] == list(range(7, COUNT))
    assert "has no frame at" in report.failures[0].reason
    path.unlink()
    with pytest.raises(SourceError, match="is missing from the data set"):
        e2e.bulk(videos_set, bundle, tmp_path / "other", topic=CAMERAS[0])


@pytest.mark.parametrize("first", [0, 1, 5, 11, 12])
def test_rows_from_the_middle(images_set, first):
    in_small_groups(images_set)
    found = rows_from(images_set / ROWS, ["index"], first, counted_by="episode_index", at_once=3)
    assert [row["index"] for row in found] == list(range(first, COUNT))


def test_frames_that_a_key_frame_comes_before_are_found(tmp_path):
    """Those that an open group of pictures stores after the next key frame and shows before it."""
    path = tmp_path / "open.mp4"
    write_video(path, moving(), options=OPEN)
    for frame in VideoSource(path):
        pictures = VideoPictures(VideoSource(path), 10.0)
        assert (pictures.at(path, frame.pts_s) == frame.rgb).all(), frame.index
        pictures.close()
