"""LeRobot data sets that lerobot itself wrote, whole and damaged in every way that was thought of."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2e_deploy.errors import E2EDeployError, SourceError, UsageError
from e2e_deploy.runtime.sources.lerobot import data_set, pictures
from e2e_deploy.runtime.sources.lerobot.source import LeRobotSource
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.steps.step import steady
from tests.lerobot_program import CAMERAS, FPS, HW, LENGTHS, greys

FRONT, WRIST = CAMERAS
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
ROWS = "data/chunk-000/file-000.parquet"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"


def edit_info(root, **changes):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_table(path, name, change):
    """Replace a column by what ``change`` makes of its values."""
    table = pq.read_table(path)
    at, field = table.column_names.index(name), table.schema.field(name)
    pq.write_table(table.set_column(at, field, change(table.column(name))), path)


def set_value(row, value):
    """A change of one row's value."""

    def change(column):
        values = column.to_pylist()
        values[row] = value
        return pa.array(values, column.type)

    return change


@pytest.mark.parametrize("camera", [0, 1])
def test_every_frame_of_a_camera_comes_in_order_with_its_episode(videos_set, camera):
    source = open_source(str(videos_set), topic=CAMERAS[camera])
    assert (source.is_video, source.is_live) == (True, False)
    assert (source.fps, source.total, source.topic) == (FPS, sum(LENGTHS), CAMERAS[camera])
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(sum(LENGTHS)))
    places = [(e, i) for e, length in enumerate(LENGTHS) for i in range(length)]
    assert [frame.name for frame in frames] == [f"episode-{e:06d}-frame-{i:06d}" for e, i in places]
    assert [frame.begins for frame in frames] == [i == 0 for _, i in places]
    np.testing.assert_allclose([f.shown_s for f in frames], np.arange(len(frames)) / FPS, atol=1e-6)
    for frame, (episode, index) in zip(frames, places, strict=True):
        assert frame.rgb.shape == (*HW, 3)
        seen = [frame.rgb[y, x].mean() for y, x in ((12, 16), (12, 48), (36, 16))]
        np.testing.assert_allclose(seen, greys(camera, episode, index), atol=2)


def test_images_in_the_rows_are_read_to_the_last_bit(images_set):
    frames = list(open_source(images_set))
    assert len(frames) == sum(LENGTHS)
    for frame in frames:
        episode, index = int(frame.name[8:14]), int(frame.name[-6:])
        assert tuple(frame.rgb[[12, 12, 36], [16, 48, 16], 0]) == greys(0, episode, index)


def test_a_source_is_read_again_from_its_start(videos_set):
    source = LeRobotSource(videos_set, FRONT)
    next(iter(source))
    first, second = list(source), list(source)
    assert all((a.rgb == b.rgb).all() for a, b in zip(first, second, strict=True))


def test_episodes_in_several_videos_and_far_apart_are_found(videos_set, monkeypatch):
    """The second episode in a copy of the file, so that files are left and come back, at other times than before."""
    expected = [frame.rgb for frame in LeRobotSource(videos_set, FRONT)]
    monkeypatch.setattr(pictures, "AHEAD_S", 0.05)
    video = videos_set / VIDEO
    shutil.copy(video, video.with_name("file-001.mp4"))
    edit_table(videos_set / EPISODES, f"videos/{FRONT}/file_index", set_value(1, 1))
    for frame, rgb in zip(LeRobotSource(videos_set, FRONT), expected, strict=True):
        np.testing.assert_array_equal(frame.rgb, rgb)


def test_steady_depth_begins_anew_in_every_episode(videos_set, rng):
    step = steady()
    base = rng.random((48, 64), dtype=np.float32)
    changed = []
    for frame in LeRobotSource(videos_set, FRONT):
        depth = base * np.float32(0.5 + 0.05 * (frame.index % 7)) + np.float32(0.1)
        changed.append(step(frame, depth, {}) is not depth)
    assert changed == [index > 0 for length in LENGTHS for index in range(length)]


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        (None, "several cameras; `topic` says which: observation.images.front, observation.im"),
        ("front", "'front' is none of its keys; its cameras are observation.images.front"),
        ("action", "'action' is float32, no pictures"),
    ],
)
def test_a_camera_that_is_none_is_refused_with_those_there_are(videos_set, topic, said):
    with pytest.raises(UsageError, match=said):
        open_source(videos_set, topic=topic)


def test_a_depth_map_is_no_camera(videos_set):
    features = json.loads((videos_set / "meta/info.json").read_text())["features"]
    features[WRIST]["info"]["is_depth_map"] = True
    edit_info(videos_set, features=features)
    assert LeRobotSource(videos_set).key == FRONT
    with pytest.raises(UsageError, match="is a depth map"):
        LeRobotSource(videos_set, WRIST)


def _features(**changes):
    image = {"dtype": "video", "shape": [48, 64, 3]}
    return {"features": {name: image | change for name, change in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codebase_version": "v2.1"}, "format v2.1; 3.0 is read: convert"),
        ({"codebase_version": None}, "format None"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": True}, "fps is True"),
        ({"fps": "30"}, "fps is '30'"),
        ({"total_frames": 13}, "13 frames, and meta/episodes lists 3 with 12"),
        ({"total_episodes": 2}, "total_episodes is 2, and meta/episodes lists more"),
        ({"total_episodes": 4}, "4 episodes with 12 frames, and meta/episodes lists 3"),
        ({"total_frames": 10**12}, "total_frames is 1000000000000"),
        ({"features": [1]}, "features must be objects"),
        ({"features": {"a": {"dtype": 3}}}, "features must be objects"),
        ({"features": {"a": {"dtype": "float32"}}}, "no feature is a video or an image"),
        ({"data_path": "{chunk_index:9999999999d}"}, "data_path is"),
        ({"video_path": "../../{video_key}"}, "video_path is"),
    ],
)
def test_what_info_says_wrong_is_one_sentence(videos_set, changes, said):
    edit_info(videos_set, **changes)
    with pytest.raises(SourceError, match=said):
        LeRobotSource(videos_set, None if "features" in changes else FRONT)


@pytest.mark.parametrize("key", ["../../etc", "..", "a/b", "", "a\n"])
def test_a_key_that_leads_elsewhere_is_refused(videos_set, key):
    edit_info(videos_set, features={key: {"dtype": "video"}})
    with pytest.raises(SourceError, match="is no name of a camera"):
        LeRobotSource(videos_set, key)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (EPISODES, "list of episodes is missing"),
        (ROWS, "is missing from the data set"),
        (VIDEO, "is missing from the data set"),
    ],
)
def test_a_missing_file_is_told_before_anything_is_read(videos_set, gone, said):
    (videos_set / gone).unlink()
    with pytest.raises(SourceError, match=said):
        LeRobotSource(videos_set, FRONT)


@pytest.mark.parametrize(
    ("file", "column", "row", "value", "said"),
    [
        (EPISODES, "length", 1, 4, "comes episode 2 from frame 8 with 4; they must follow"),
        (EPISODES, "length", 2, 5, "12 frames, and meta/episodes lists 3 with 13"),
        (EPISODES, "episode_index", 1, 7, "comes episode 7"),
        (EPISODES, "data/file_index", 1, -1, "a place or a length of episode 1 is no number"),
        (EPISODES, f"videos/{FRONT}/from_timestamp", 1, float("nan"), "is no number"),
        (EPISODES, f"videos/{FRONT}/from_timestamp", 2, 5.0, "has no frame at 5.000 s"),
        (EPISODES, f"videos/{FRONT}/file_index", 2, 9, "file-009.mp4 is missing"),
        (ROWS, "episode_index", 5, 0, "holds a frame of episode 0 where"),
        (ROWS, "timestamp", 3, 0.1, "must grow from 0; after 0.2 comes 0.1"),
        (ROWS, "timestamp", 4, float("inf"), "must grow"),
        (ROWS, "timestamp", 4, None, "must grow"),
    ],
)
def test_tables_that_do_not_agree_are_one_sentence(videos_set, file, column, row, value, said):
    edit_table(videos_set / file, column, set_value(row, value))
    with pytest.raises(SourceError, match=said):
        list(LeRobotSource(videos_set, FRONT))


def test_fewer_rows_than_the_episodes_have(videos_set):
    pq.write_table(pq.read_table(videos_set / ROWS).slice(0, 10), videos_set / ROWS)
    with pytest.raises(SourceError, match="ends before the 4 frames of episode 2"):
        list(LeRobotSource(videos_set, FRONT))


def test_a_column_that_is_missing(videos_set):
    table = pq.read_table(videos_set / ROWS).drop_columns(["timestamp"])
    pq.write_table(table, videos_set / ROWS)
    with pytest.raises(SourceError, match="has no column 'timestamp'"):
        list(LeRobotSource(videos_set, FRONT))


def test_images_without_bytes(images_set):
    edit_table(images_set / ROWS, FRONT, set_value(2, {"bytes": None, "path": "/etc/passwd"}))
    with pytest.raises(SourceError, match="episode-000000-frame-000002 of .* holds no picture"):
        list(LeRobotSource(images_set))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_video_that_is_cut_off(videos_set, share):
    path = videos_set / VIDEO
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SourceError, match="cut off|no frame at|not a video|breaks off"):
        list(LeRobotSource(videos_set, FRONT))


@pytest.mark.parametrize("file", [EPISODES, ROWS, VIDEO])
def test_damaged_bytes_never_end_in_a_traceback(videos_set, file):
    """Some damage is not seen, as of a picture or of numbers that are not asked for; none raises anything else."""
    path, rng = videos_set / file, np.random.default_rng(0)
    whole = path.read_bytes()
    refused = 0
    for _ in range(25):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 8):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data[: int(rng.choice([len(data), rng.integers(1, len(data))]))])
        with suppress(E2EDeployError):
            list(LeRobotSource(videos_set, FRONT))
            continue
        refused += 1
    assert refused > 10


def test_counts_that_promise_too_much_are_refused_before_they_are_read(videos_set, monkeypatch):
    monkeypatch.setattr(data_set, "MAX_EPISODES", 2)
    with pytest.raises(SourceError, match="total_episodes is 3; it must be a number from 1 to 2"):
        LeRobotSource(videos_set, FRONT)
