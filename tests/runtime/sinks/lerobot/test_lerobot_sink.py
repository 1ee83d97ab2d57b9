"""A LeRobot data set with depth: read by PyArrow and FFmpeg, and by lerobot itself where LEROBOT_PYTHON names one."""

import hashlib
import json
import os
import subprocess

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import e2e_deploy as e2e
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.uris import open_source
from tests import lerobot_program
from tests.lerobot_program import CAMERAS, HW, LENGTHS
from tests.plain_bundle import write_plain_bundle

FRONT, WRIST = CAMERAS
DEPTH = f"{FRONT}_depth"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
NEW = {"meta/info.json", "meta/stats.json", EPISODES}
RAMP = np.linspace(30, 220, 32).astype(np.uint8) / 255  # of every picture, in its last quarter
HALF_CODE_M = 0.5 * np.log(13.5 / 3.51) / 4095 * (2.3 + 3.5)  # of depth up to 2.3 m


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("plain") / "bundle", sizes=(HW,))


def points(scale=2.0, shift=0.5):
    """Points on the ramp whose metres are ``scale * depth + shift``."""
    columns = np.arange(2, 30, 4)
    return np.stack([columns + 32, np.full(7, 36), scale * RAMP[columns] + shift], axis=1)


def hashes(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def decoded(root, key=DEPTH):
    """All frames of a depth key in metres, by FFmpeg and the formula that lerobot's info tells."""
    info = json.loads((root / "meta/info.json").read_text())["features"][key]["info"]
    low, high = (np.log(info[f"video.depth_{end}"] + info["video.shift"]) for end in ("min", "max"))
    with av.open(str(root / f"videos/{key}/chunk-000/file-000.mp4")) as file:
        frames = [f.to_ndarray(format="gray12le") for f in file.decode(video=0)]
    assert info["video.use_log"] is True
    return np.exp(np.stack(frames) / 4095 * (high - low) + low) - info["video.shift"]


def run(source, bundle, out, **arguments):
    """The report, and the metres of every frame."""
    metres = []
    sink = CallbackSink(lambda frame, depth, facts: metres.append(depth))
    given = {"topic": FRONT, "metric_points": points()} | arguments
    report = e2e.run(source, bundle, out=out, sinks=[sink], **given)
    return report, metres


def test_the_copy_has_depth_of_every_frame_and_all_that_was_there(videos_set, bundle, tmp_path):
    before, out = hashes(videos_set), tmp_path / "new"
    report, metres = run(videos_set, bundle, f"lerobot:{out}")
    assert (report.files, report.frames, report.complete) == ([out], sum(LENGTHS), True)
    assert hashes(videos_set) == before
    after = hashes(out)
    assert after.keys() == before.keys() | {f"videos/{DEPTH}/chunk-000/file-000.mp4"}
    assert {name for name in before if after[name] != before[name]} == NEW
    assert not {p.stat().st_ino for p in out.rglob("*.*")} & {
        p.stat().st_ino for p in videos_set.rglob("*.*")
    }
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    found = decoded(out)
    np.testing.assert_allclose(found, np.stack(metres), atol=HALF_CODE_M)
    # metres of the three flat quarters and the ramp, as the points say
    for index, frame in enumerate(found[:5]):
        grey = np.array([60, 40, 40 + 30 * index])
        np.testing.assert_allclose(
            frame[[12, 12, 36], [16, 48, 16]], 2 * grey / 255 + 0.5, atol=0.02
        )
        np.testing.assert_allclose(frame[36, 36:60], 2 * RAMP[4:28] + 0.5, atol=0.03)


def test_the_lists_say_what_lerobots_say_of_its_own_depth_cameras(videos_set, bundle, tmp_path):
    out = tmp_path / "new"
    run(videos_set, bundle, f"lerobot:{out}")
    old = json.loads((videos_set / "meta/info.json").read_text())
    new = json.loads((out / "meta/info.json").read_text())
    feature = new["features"].pop(DEPTH)
    assert new == old
    told = feature["info"].pop("e2e_deploy")
    assert told["checkpoint"] == "plain"
    # what lerobot 0.6.1 writes for an array of float32, but for the preset
    assert feature == {
        "dtype": "video",
        "shape": [48, 64, 1],
        "names": ["height", "width", "channels"],
        "info": {
            "is_depth_map": True,
            "depth_unit": "m",
            "video.height": 48,
            "video.width": 64,
            "video.codec": "hevc",
            "video.pix_fmt": "gray12le",
            "video.fps": 10,
            "video.channels": 1,
            "has_audio": False,
            "video.g": 2,
            "video.crf": 30,
            "video.preset": "ultrafast",
            "video.fast_decode": 0,
            "video.video_backend": "pyav",
            "video.extra_options": {"x265-params": "lossless=1"},
            "video.depth_min": 0.01,
            "video.depth_max": 10.0,
            "video.shift": 3.5,
            "video.use_log": True,
        },
    }
    depth, table = decoded(out), pq.read_table(out / EPISODES)
    there = pq.read_table(videos_set / EPISODES)
    assert table.select(there.column_names).equals(there)
    for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
        ours, theirs = (table.column(f"videos/{key}/{name}") for key in (DEPTH, FRONT))
        assert ours.type == theirs.type
        np.testing.assert_allclose(ours.to_pylist(), theirs.to_pylist())
    at = 0
    for row, length in zip(table.to_pylist(), LENGTHS, strict=True):
        episode = depth[at : at + length]
        assert row[f"stats/{DEPTH}/count"] == [length]
        for name in ("min", "max", "mean", "std"):
            value = getattr(episode, name)()
            np.testing.assert_allclose(row[f"stats/{DEPTH}/{name}"], [[[value]]], atol=1e-6)
        median = np.quantile(episode, 0.5, method="inverted_cdf")
        np.testing.assert_allclose(row[f"stats/{DEPTH}/q50"], [[[median]]], atol=1e-6)
        at += length
    for name in ("min", "q01", "count"):
        assert (
            table.schema.field(f"stats/{DEPTH}/{name}").type
            == table.schema.field(f"stats/{FRONT}/{name}").type
        )
    stats = json.loads((out / "meta/stats.json").read_text())
    assert stats.keys() == {*json.loads((videos_set / "meta/stats.json").read_text()), DEPTH}
    np.testing.assert_allclose(stats[DEPTH]["mean"], [[[depth.mean()]]], atol=1e-6)
    assert stats[DEPTH]["count"] == [sum(LENGTHS)]


def test_depth_of_images_in_rows_is_a_video_beside_them(images_set, bundle, tmp_path):
    out = tmp_path / "new"
    info = images_set / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"video_path": None}))
    _, metres = run(images_set, bundle, f"lerobot:{out}")
    np.testing.assert_allclose(decoded(out), np.stack(metres), atol=HALF_CODE_M)
    assert json.loads((out / "meta/info.json").read_text())["video_path"].startswith("videos/{")


def test_a_second_camera_goes_into_a_copy_of_the_copy(videos_set, bundle, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(videos_set, bundle, f"lerobot:{first}")
    run(first, bundle, f"lerobot:{second}", topic=WRIST)
    features = json.loads((second / "meta/info.json").read_text())["features"]
    assert {DEPTH, f"{WRIST}_depth"} <= features.keys()
    np.testing.assert_array_equal(decoded(second), decoded(first))
    assert open_source(second, topic=WRIST).data.cameras == [FRONT, WRIST]
    with pytest.raises(e2e.UsageError, match="has a key 'observation.images.front_depth' already"):
        run(second, bundle, f"lerobot:{tmp_path / 'third'}")


def test_depth_beyond_the_range_is_kept_at_its_end_and_said(videos_set, bundle, tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    metric = {"metric_points": points(scale=30.0)}
    report, metres = run(videos_set, bundle, f"lerobot:{near}", **metric)
    share = np.mean(np.stack(metres) > 10)
    assert 0.3 < share < 0.9
    assert [n for n in report.source.notes if "beyond 10 m" in n and f"{share:.1%}" in n]
    assert decoded(near).max() == pytest.approx(10)
    report, metres = run(videos_set, bundle, f"lerobot:{far}?depth_max=40", **metric)
    np.testing.assert_allclose(decoded(far), np.stack(metres), atol=0.02)
    assert not report.source.notes


def test_unknown_depth_is_the_least_as_of_lerobots_cameras(videos_set, bundle, tmp_path):
    out = tmp_path / "new"
    # of depth 0.2 and less, this line makes nothing that lies before the camera
    report, metres = run(videos_set, bundle, f"lerobot:{out}", metric_points=_beyond_zero())
    unknown = np.isnan(np.stack(metres))
    said = f"{unknown.mean():.1%} of the depth is unknown and is kept as 0.01 m"
    assert [note for note in report.source.notes if note.startswith(said)]
    assert 0.05 < unknown.mean() < 0.9
    np.testing.assert_allclose(decoded(out)[unknown], 0.01, atol=1e-9)


def _beyond_zero():
    rows = points(scale=2.0, shift=-0.4)
    return rows[rows[:, 2] > 0.05]


@pytest.mark.parametrize(
    ("out", "arguments", "said"),
    [
        ("new", {"metric_points": None}, "keeps depth in metres, and this has none: add"),
        ("new", {"limit": 11}, "`limit` does not go with .* all its 12 frames"),
        ("videos_set", {}, "lies in the data set"),
        ("videos_set/new", {}, "lies in the data set"),
        ("there", {}, "there is there already: name a new folder"),
        ("new?depth_max=0", {}, "depth_max=METRES"),
        ("new?depth_max=1001", {}, "depth_max=METRES"),
        ("new?depth_max=1.2.3", {}, "depth_max=METRES"),
        ("new?depth_min=1", {}, "depth_max=METRES"),
        ("", {}, "a data set is lerobot:FOLDER"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused_before_anything_is_written(
    videos_set, bundle, tmp_path, monkeypatch, out, arguments, said
):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    before = hashes(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(e2e.UsageError, match=said):
        run(videos_set, bundle, f"lerobot:{out}", **arguments)
    assert hashes(tmp_path) == before


def test_a_limit_that_takes_all_is_none(videos_set, bundle, tmp_path):
    run(videos_set, bundle, f"lerobot:{tmp_path / 'new'}", limit=12)
    assert decoded(tmp_path / "new").shape == (12, *HW)


def test_only_a_data_set_becomes_one(bundle, tmp_path):
    with pytest.raises(e2e.UsageError, match=r"copy of a LeRobot data set with depth, and test"):
        run("test:?size=48x64&frames=2", bundle, f"lerobot:{tmp_path / 'new'}", topic=None)


def test_normals_are_no_depth(videos_set, tmp_path):
    normals = write_plain_bundle(tmp_path / "normals", sizes=(HW,), task="normals")
    with pytest.raises(e2e.UsageError, match="keeps depth in metres, and this has none"):
        run(videos_set, normals, f"lerobot:{tmp_path / 'new'}", metric_points=None)


def test_of_several_results_the_distance_is_kept(videos_set, tmp_path):
    bundle = write_plain_bundle(tmp_path / "both", sizes=(HW,), task="geometry")
    _, metres = run(videos_set, bundle, f"lerobot:{tmp_path / 'new'}")
    expected = np.stack([result["depth"] for result in metres])
    np.testing.assert_allclose(decoded(tmp_path / "new"), expected, atol=HALF_CODE_M)


def test_a_source_that_breaks_off_leaves_nothing(videos_set, bundle, tmp_path):
    rows = videos_set / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(rows).slice(0, 7), rows)
    before = hashes(tmp_path)
    with pytest.raises(e2e.SourceError, match="ends before the 3 frames of episode 1"):
        run(videos_set, bundle, f"lerobot:{tmp_path / 'new'}")
    assert hashes(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".new")]


def test_a_run_that_ends_early_leaves_nothing_and_says_so(videos_set, bundle, tmp_path):
    def stop(frame, depth, facts):
        if frame.index == 6:
            raise KeyboardInterrupt
        return depth

    with pytest.raises(e2e.E2EDeployError, match=r"was not written: depth of \d of the 12 frames"):
        e2e.run(
            videos_set,
            bundle,
            topic=FRONT,
            metric_points=points(),
            steps=[stop],
            out=f"lerobot:{tmp_path / 'new'}",
        )
    assert [p.name for p in tmp_path.iterdir()] == ["videos_set"]


def test_a_disk_that_is_full_leaves_nothing(videos_set, bundle, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("e2e_deploy.runtime.sinks.lerobot.sink.write_lists", full)
    out = tmp_path / "new"
    with pytest.raises(e2e.E2EDeployError, match="No space left on device; nothing was changed"):
        e2e.run(videos_set, bundle, topic=FRONT, metric_points=points(), out=f"lerobot:{out}")
    assert [p.name for p in tmp_path.iterdir()] == ["videos_set"]


def test_links_of_a_hubs_cache_become_files_and_its_marks_are_left(videos_set, bundle, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([p for p in videos_set.rglob("*") if p.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    (videos_set / ".cache/huggingface/download").mkdir(parents=True)
    (videos_set / "videos/again").symlink_to(videos_set, target_is_directory=True)
    (videos_set / "README.md").write_text("mine")
    out = tmp_path / "new"
    run(videos_set, bundle, f"lerobot:{out}")
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert not (out / ".cache").exists()
    assert (out / "README.md").read_text() == "mine"
    assert len(decoded(out)) == 12


@pytest.mark.parametrize("file", ["meta/stats.json", EPISODES])
def test_lists_that_are_damaged_are_told_before_anything_is_computed(
    videos_set, bundle, tmp_path, file
):
    """Of the list of episodes only what the source does not need: statistics of a state."""
    path = videos_set / file
    data = bytearray(path.read_bytes())
    if file == EPISODES:
        column = pq.ParquetFile(path).metadata.row_group(0)
        at = next(
            column.column(i).data_page_offset
            for i in range(column.num_columns)
            if column.column(i).path_in_schema.startswith("stats/action/mean")
        )
    else:
        at = len(data) // 2
    data[at : at + 12] = bytes(12)
    path.write_bytes(data)
    assert len(list(open_source(videos_set, topic=FRONT))) == 12
    frames = []
    with pytest.raises(e2e.SourceError, match="cannot be read as"):
        run(videos_set, bundle, f"lerobot:{tmp_path / 'new'}", on_frame=frames.append)
    assert (frames, [p.name for p in tmp_path.iterdir()]) == ([], ["videos_set"])


def test_a_home_is_found_behind_the_colon(videos_set, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(videos_set, bundle, "lerobot:~/new")
    assert (tmp_path / "new/meta/info.json").exists()


def lerobot(*arguments):
    """Run the program with lerobot's interpreter."""
    command = [os.environ["LEROBOT_PYTHON"], lerobot_program.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(
    "LEROBOT_PYTHON" not in os.environ,
    reason="LEROBOT_PYTHON names no Python with lerobot[dataset] (0.6.1 needs Python 3.12)",
)
class TestWithLerobotItself:
    @pytest.mark.parametrize("kind", ["videos_set", "images_set"])
    def test_it_reads_what_we_wrote_of_what_it_wrote(self, bundle, tmp_path, kind):
        lerobot("write", tmp_path)
        out = tmp_path / "new"
        _, metres = run(tmp_path / kind, bundle, f"lerobot:{out}?depth_max=4")
        lerobot("read", out, DEPTH, tmp_path / "read.npz")
        read = np.load(tmp_path / "read.npz")
        assert read["depth_keys"].tolist() == [DEPTH]
        assert read["depth"].shape == (sum(LENGTHS), 1, *HW)
        assert read["depth"].dtype == np.float32
        np.testing.assert_allclose(read["depth"][:, 0], np.stack(metres), atol=HALF_CODE_M)
        np.testing.assert_allclose(read["depth"][:, 0], decoded(out), atol=1e-5)
        places = [(e, i) for e, length in enumerate(LENGTHS) for i in range(length)]
        assert list(zip(read["episode"], read["frame"], strict=True)) == places
        assert read["task"].tolist() == [f"task {e % 2}" for e, _ in places]
        np.testing.assert_allclose(read["stats/mean"], [[[read["depth"].mean()]]], rtol=1e-5)
        np.testing.assert_allclose(read["stats/max"], [[[read["depth"].max()]]], rtol=1e-5)
        rgb = [frame.rgb for frame in open_source(out, topic=FRONT)]
        theirs = 255 * read["pictures"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(np.stack(rgb), theirs, atol=2)
