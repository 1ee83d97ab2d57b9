"""rosbag2's folders and SQLite files that rosbags wrote: whole, packed, split, damaged, hostile."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import zstandard

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.bag import compressed, sqlite_file
from e2e_deploy.runtime.sources.bag.bag_source import BagSource, is_log
from e2e_deploy.runtime.sources.uris import open_source
from tests import bags
from tests.bags import START_NS, CompressionMode, StoragePlugin

TOPIC = "/camera/image_raw"


@pytest.fixture(scope="module")
def rgbs():
    return bags.pictures(6)


@pytest.fixture(scope="module")
def written(tmp_path_factory, rgbs):
    """A folder of SQLite, unpacked; written once, since each statement of its schema waits for the disk."""
    entries = sorted(
        [*bags.stream(rgbs), *bags.infos(6), ("/chatter", START_NS, bags.text("hello"))],
        key=lambda e: e[1],
    )
    return bags.write_folder(tmp_path_factory.mktemp("bags") / "bag", entries)


@pytest.fixture
def bag(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "bag"))


@pytest.fixture
def base(written, tmp_path):
    return Path(shutil.copy(written / "bag.db3", tmp_path / "a.db3"))


def check(source, rgbs, count=6):
    frames = list(source)
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs[:count])
    assert [frame.stamp_ns for frame in frames] == [
        START_NS + i * bags.STEP_NS for i in range(count)
    ]
    assert [frame.logged_ns - frame.stamp_ns for frame in frames] == [2_000_000] * count
    return source


def test_a_folder_and_its_file(bag, rgbs, tmp_path):
    source = check(open_source(bag), rgbs)
    assert source.files == [bag / "bag.db3", bag / "metadata.yaml"]
    assert (source.total, source.camera.k[0], source.topic) == (6, 40, TOPIC)
    assert source.fps == pytest.approx(30, rel=0.05)
    before = sorted(os.listdir(bag))
    check(open_source(bag / "bag.db3"), rgbs)
    renamed = shutil.copy(bag / "bag.db3", tmp_path / "odd #1 %20 ä?.bin")
    check(open_source(renamed), rgbs)
    assert sorted(os.listdir(bag)) == before  # nothing was made beside it


def pack(bag, mode):
    """What rosbag2 does to a folder of SQLite when it compresses by file or message."""
    text = (bag / "metadata.yaml").read_text()
    text = text.replace("compression_format: ''", "compression_format: zstd")
    text = text.replace("compression_mode: ''", f"compression_mode: {mode}")
    if mode == "FILE":
        text = text.replace("- bag.db3", "- bag.db3.zstd")
        data = (bag / "bag.db3").read_bytes()
        (bag / "bag.db3.zstd").write_bytes(zstandard.compress(data))
        (bag / "bag.db3").unlink()
    else:
        with sqlite3.connect(bag / "bag.db3") as base:
            for number, data in base.execute("SELECT id, data FROM messages").fetchall():
                packed = zstandard.compress(data)
                base.execute("UPDATE messages SET data = ? WHERE id = ?", (packed, number))
        base.close()
    (bag / "metadata.yaml").write_text(text)


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
def test_packed_sqlite(bag, rgbs, mode, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    pack(bag, mode)
    source = check(BagSource(bag), rgbs)
    check(source, rgbs)
    assert len(os.listdir(tmp_path / "tmp")) == (mode == "FILE")
    del source
    assert not os.listdir(tmp_path / "tmp")


@pytest.mark.parametrize(
    "mode",
    [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE, CompressionMode.STORAGE],
)
def test_folders_of_mcap(tmp_path, rgbs, mode):
    folder = bags.write_folder(
        tmp_path / "bag", bags.stream(rgbs), storage=StoragePlugin.MCAP, mode=mode
    )
    assert check(BagSource(folder), rgbs).total == 6


def test_several_files_follow_each_other(tmp_path, rgbs):
    entries = bags.stream(rgbs)
    one = bags.write_folder(tmp_path / "one", entries[:2], storage=StoragePlugin.MCAP)
    two = bags.write_folder(tmp_path / "two", entries[2:], storage=StoragePlugin.MCAP)
    shutil.copy(two / "two.mcap", one)
    text = (one / "metadata.yaml").read_text()
    # As metadata before version 4 have it: with the folder, and nothing outside it is read.
    (one / "metadata.yaml").write_text(
        text.replace("- one.mcap", "- one.mcap\n  - ../two/two.mcap", 1)
    )
    shutil.rmtree(two)
    source = check(BagSource(one), rgbs)
    assert source.total == 6
    (one / "two.mcap").write_bytes((one / "two.mcap").read_bytes()[:-100])
    source = BagSource(one)
    with pytest.raises(SourceError, match="is cut off: .*; 6 frames could be read"):
        check(source, rgbs)
    (one / "two.mcap").unlink()
    with pytest.raises(SourceError, match=r"two\.mcap cannot be read: No such file"):
        BagSource(one)


def test_metadata_that_is_missing_or_not_what_it_says(bag, tmp_path):
    metadata = bag / "metadata.yaml"
    whole = metadata.read_text()
    for changed, said in (
        (
            whole.replace("storage_identifier: sqlite3", "storage_identifier: tape"),
            "the plugin 'tape'; mcap and sql",
        ),
        (whole.replace("- bag.db3", "- other.db3"), r"other\.db3 cannot be read"),
        (whole.replace("- bag.db3", "- ../../../etc/passwd"), "bag/passwd cannot be read: No such"),
        (whole.replace("relative_file_paths", "paths"), "does not say 'relative_file_paths'"),
        ("rosbag2_bagfile_information: [1, 2]", "is not the metadata of a rosbag2"),
        ("rosbag2_bagfile_information: {", "is not the metadata of a rosbag2"),
        ("rosbag2_bagfile_information: " + "[" * 400, "is not the metadata of a rosbag2"),
        (
            "a: !!python/object/apply:os.system [x]\nrosbag2_bagfile_information: {}",
            "is not the metadata",
        ),
        (
            whole.replace("compression_mode: ''", "compression_mode: FILE"),
            "compressed as '' by 'file'",
        ),
    ):
        metadata.write_text(changed)
        with pytest.raises(SourceError, match=said):
            open_source(bag)
    metadata.unlink()
    with pytest.raises(
        SourceError, match=r"metadata\.yaml is missing: name one of the files .*`ros2 bag reindex`"
    ):
        open_source(bag)
    (bag / "notes.txt").write_text("x")  # no longer nothing but logs
    assert not is_log(bag)


def test_packed_files_have_room_or_are_refused(bag, monkeypatch, tmp_path):
    pack(bag, "FILE")
    monkeypatch.setattr(compressed, "_SHARE", 0.0)
    with pytest.raises(
        SourceError,
        match="unpacks to more than fits into .*: set TMPDIR to a folder on a larger disk",
    ):
        BagSource(bag)
    monkeypatch.undo()
    packed = bag / "bag.db3.zstd"
    whole = packed.read_bytes()
    for data in (b"abc", b"", whole[: len(whole) // 2], whole[:50] + bytes(50) + whole[100:]):
        packed.write_bytes(data)
        with pytest.raises(
            SourceError,
            match=r"bag\.db3\.zstd (cannot be unpacked|is not an SQLite|is an SQLite|breaks)",
        ):
            list(BagSource(bag))


def test_sqlite_that_is_none_of_rosbag2(tmp_path):
    path = tmp_path / "a.db3"
    path.write_text("hello")
    with pytest.raises(
        SourceError, match="not an SQLite file of rosbag2 .*: file is not a database"
    ):
        open_source(path)
    path.unlink()
    bags.in_database(path, "CREATE TABLE other (x)")
    with pytest.raises(SourceError, match="an SQLite file without the tables topics and messages"):
        open_source(path)
    bags.in_database(path, "CREATE TABLE topics (id, name, type, serialization_format)")
    # It would compute for ever.
    bags.in_database(
        path,
        "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
        "SELECT id, 1 AS topic_id, id AS timestamp, x'00' AS data FROM n",
    )
    with pytest.raises(SourceError, match="without the tables topics and messages"):
        open_source(path)


def test_rows_that_are_no_messages(base, rgbs, monkeypatch):
    monkeypatch.setattr(sqlite_file, "MAX_BYTES", 10_000)
    for statement in (
        "UPDATE messages SET data = 'text' WHERE id = (SELECT max(id) FROM messages WHERE topic_id = ?)",
        "UPDATE messages SET data = NULL WHERE id = (SELECT max(id) FROM messages WHERE topic_id = ?)",
        "UPDATE messages SET data = zeroblob(20000) WHERE id = (SELECT max(id) FROM messages WHERE topic_id = ?)",
    ):
        with sqlite3.connect(base) as writer:
            ((number,),) = writer.execute("SELECT id FROM topics WHERE name = ?", (TOPIC,))
        writer.close()
        try:
            bags.in_database(base, statement, number)
        except sqlite3.IntegrityError:  # the column takes no NULL
            continue
        source = check(BagSource(base), rgbs, 5)
        assert source.skipped == 1
        assert "left out: message" in source.notes[0]


def test_a_file_without_its_end_gives_what_is_there(base, rgbs):
    whole = base.read_bytes()
    counts = []
    for size in range(len(whole) - 1, 4096, -4096):
        base.write_bytes(whole[:size])
        frames = []
        with pytest.raises(
            SourceError, match=r"cut off: its last [0-9,]+ bytes|a rosbag2|of rosbag2"
        ):
            for frame in BagSource(base):
                frames.append(frame)
        counts.append(len(frames))
        for frame in frames:
            whole_one = rgbs[(frame.stamp_ns - START_NS) // bags.STEP_NS]
            np.testing.assert_array_equal(frame.rgb, whole_one)
    assert counts[0] == 5  # of a message whose last byte is missing nothing is shown
    assert {0, 1, 2, 3, 4, 5} == set(counts)


def test_an_interrupt_of_a_long_query_is_one(base, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_file, "_STEPS", 100)
    monkeypatch.setattr(sqlite_file, "_go_on", interrupt)
    with pytest.raises(KeyboardInterrupt):
        BagSource(base)


def test_what_a_recorder_left_in_its_log_is_said(base, rgbs):
    Path(f"{base}-wal").write_bytes(b"x" * 100)
    source = BagSource(base)
    with pytest.raises(
        SourceError, match=r"cut off: a\.db3-wal beside it holds .*wal_checkpoint.*; 6 frames"
    ):
        list(source)
    Path(f"{base}-wal").write_bytes(b"")
    check(BagSource(base), rgbs)
