"""MCAP files that are cut off, damaged, without an index, or lie."""

import struct

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType, IndexType

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.bag import mcap_file
from e2e_deploy.runtime.sources.bag.bag_source import BagSource
from e2e_deploy.runtime.sources.bag.mcap_file import McapFile
from e2e_deploy.runtime.sources.uris import open_source
from tests import bags
from tests.bags import START_NS, write_mcap

TOPIC = "/camera/image_raw"
ONE_A_CHUNK = 1000  # bytes: a picture is larger


@pytest.fixture(scope="module")
def rgbs():
    return bags.pictures(6)


def read(path, topics=(TOPIC,)):
    log, said = McapFile(path), []
    return log, list(log.messages(topics, said.append)), said


@pytest.mark.parametrize(
    ("options", "has_index"),
    [
        ({}, True),
        ({"compression": CompressionType.LZ4}, True),
        ({"compression": CompressionType.NONE}, True),
        ({"chunk_size": ONE_A_CHUNK}, True),
        ({"index_types": IndexType.CHUNK}, True),
        ({"use_statistics": False}, True),
        ({"enable_crcs": False}, True),
        ({"use_chunking": False}, False),
        ({"index_types": IndexType.NONE}, False),
        ({"repeat_channels": False}, False),
        ({"profile": ""}, True),
    ],
)
def test_every_layout(tmp_path, rgbs, options, has_index):
    entries = [*bags.stream(rgbs), ("/chatter", START_NS, bags.text("hello"))]
    log, found, said = read(write_mcap(tmp_path / "a.mcap", entries, **options))
    assert [each.data for each in found] == [bags.cdr(message) for _, _, message in entries[:6]]
    assert [each.logged_ns for each in found] == [entry[1] for entry in entries[:6]]
    assert (said, log.cut) == ([], "")
    assert bool(log.notes) != has_index
    counts = {topic.name: topic.count for topic in log.topics}
    known = options.get("use_statistics", True)
    assert counts == ({TOPIC: 6, "/chatter": 1} if known else dict.fromkeys(counts))
    assert log.seconds == (pytest.approx(5 * bags.STEP_NS / 1e9 + 0.002) if known else None)


def test_a_file_without_its_end_gives_what_is_whole(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs), chunk_size=ONE_A_CHUNK)
    whole = path.read_bytes()
    counts = set()
    for size in (*range(len(whole) - 8, 300, -997), len(whole) - 1):
        path.write_bytes(whole[:size])
        log, found, said = read(path)
        counts.add(len(found))
        assert said == []
        assert log.cut
        np.testing.assert_array_equal(
            [len(each.data) for each in found], len(bags.cdr(bags.raw(rgbs[0], 0)))
        )
    assert counts == {0, 1, 2, 3, 4, 5, 6}


def test_a_file_that_breaks_off_before_its_topics_is_cut_off(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match="no topic of pictures; it has none; it is cut off: at"):
        BagSource(path)


def test_what_came_before_the_cut_is_given_then_it_is_said(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs), chunk_size=ONE_A_CHUNK)
    path.write_bytes(path.read_bytes()[:9000])
    source, frames = BagSource(path), []
    with pytest.raises(
        SourceError, match=r"a\.mcap is cut off: at byte [0-9,]+ a record.*; 3 frames could be read"
    ):
        frames.extend(iter(source))
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs[:3])
    assert source.total == 3
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match="cut off|no topic of pictures"):
        BagSource(path)


def chunk_places(path):
    return [chunk.place for chunk in McapFile(path)._chunks]


def test_a_damaged_chunk_is_left_out_and_counted(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs), chunk_size=ONE_A_CHUNK)
    whole, place = path.read_bytes(), chunk_places(path)[2]
    for offset, change in (
        (60, b"\xff\xff\xff"),
        (1500, b"\0\0\0\0"),
        (0, b"\x05"),
        (25, b"\1\1\1\1\1\1\1\1"),
    ):
        broken = bytearray(whole)
        broken[place + offset : place + offset + len(change)] = change
        path.write_bytes(broken)
        source = BagSource(path)
        frames = list(source)
        assert (len(frames), source.skipped) == (5, 1), offset
        assert "byte" in source.notes[0]


def test_an_index_that_is_damaged_is_not_believed(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs), chunk_size=ONE_A_CHUNK)
    whole = path.read_bytes()
    start = int.from_bytes(whole[-28:-20], "little")
    for place, change in (
        (len(whole) - 28, b"\xff" * 8),
        (len(whole) - 28, struct.pack("<Q", start + 3)),
        (start + 1, b"\xff" * 8),
        (start + 60, b"\xff" * 30),
    ):
        broken = bytearray(whole)
        broken[place : place + len(change)] = change
        path.write_bytes(broken)
        log, found, _ = read(path)
        assert len(found) == 6
        assert any("no index that holds" in note for note in log.notes)


def record(opcode, data, length=None):
    return struct.pack("<BQ", opcode, len(data) if length is None else length) + data


def chunk(data, size, compression=b"zstd"):
    head = struct.pack("<QQQI", 0, 1, size, 0) + struct.pack("<I", len(compression)) + compression
    return record(6, head + struct.pack("<Q", len(data)) + data)


MAGIC = b"\x89MCAP0\r\n"
HEADER = record(1, bytes(8))


def bomb():
    """A few bytes of zstd that stand for 256 MiB, and does not say so."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    block = bytes(2**24)
    return b"".join(compressor.compress(block) for _ in range(16)) + compressor.flush()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HEADER,
        HEADER + record(6, b"abc"),
        HEADER + record(6, b"abc", 2**62),
        HEADER + record(5, b"abc"),
        HEADER + record(5, b"x" * 100, 2**40),
        HEADER + record(4, b"\xff" * 40),
        HEADER + record(3, struct.pack("<HI", 1, 2**31) + b"ab"),
        HEADER + chunk(b"abc", 2**60),
        HEADER + chunk(zstandard.compress(bytes(1000)), 2**29),
        HEADER + chunk(zstandard.compress(b"\x06" * 1000), 1000),
        HEADER + chunk(bytes(50), 50, b""),
        HEADER + chunk(b"x" * 50, 50, b"rar"),
        HEADER + chunk(b"x" * 50, 50, b"lz4"),
        HEADER + chunk(b"x" * 50, 50, b"\xff\xfe"),
        bytes(5000),
        HEADER + b"\x08" + b"\xff" * 500,
    ],
)
@pytest.mark.parametrize(
    "tail", [b"", record(2, bytes(20)) + MAGIC, record(2, b"\x09" + bytes(19)) + MAGIC]
)
def test_hostile_files_are_one_sentence(tmp_path, content, tail):
    path = tmp_path / "a.mcap"
    path.write_bytes(MAGIC + content + tail)
    with pytest.raises(SourceError, match="holds no|no topic|cannot be read|cut off"):
        list(BagSource(path))


def test_a_bomb_is_damage_and_takes_no_memory(tmp_path, rgbs):
    import tracemalloc

    path = tmp_path / "a.mcap"
    good = write_mcap(tmp_path / "b.mcap", bags.stream(rgbs[:1]), use_chunking=False).read_bytes()
    end = good.index(record(15, bytes(4)))
    packed = bomb()
    for size in (2**32, 100_000):
        path.write_bytes(good[:end] + chunk(packed, size) + good[end:])
        tracemalloc.start()
        source = BagSource(path)
        assert len(list(source)) == 1
        assert source.skipped == 1
        assert tracemalloc.get_traced_memory()[1] < 5e6
        tracemalloc.stop()


def test_what_is_small_in_a_file_and_large_in_memory_is_refused(tmp_path, rgbs, monkeypatch):
    empty = [(TOPIC, START_NS, ("sensor_msgs/msg/Image", b""))] * 30
    path = write_mcap(tmp_path / "a.mcap", [*bags.stream(rgbs[:1]), *empty])
    monkeypatch.setattr(mcap_file, "MAX_MESSAGES", 20)
    log, found, said = read(path)
    assert (len(log.topics), found) == (1, [])
    assert "more than 20 messages" in said[0]
    long = write_mcap(tmp_path / "b.mcap", bags.stream(rgbs[:1], "/" + "a" * 2000))
    assert McapFile(long).topics == []


def test_an_index_that_names_a_chunk_twice_reads_it_once(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs), chunk_size=ONE_A_CHUNK)
    whole = path.read_bytes()
    start = int.from_bytes(whole[-28:-20], "little")
    place = whole.index(b"\x08", start)
    while int.from_bytes(whole[place + 25 : place + 33], "little") not in chunk_places(path):
        place = whole.index(b"\x08", place + 1)
    size = 9 + int.from_bytes(whole[place + 1 : place + 9], "little")
    doubled = whole[:place] + 50 * whole[place : place + size] + whole[place:]
    no_sum = doubled[:-12] + bytes(4) + doubled[-8:]
    path.write_bytes(no_sum)
    log, found, _ = read(path)
    assert len(found) == 6
    assert log.notes == []


def test_chunks_that_all_overlap_wait_only_so_long(tmp_path, rgbs, monkeypatch):
    entries = bags.stream(rgbs)
    path = write_mcap(
        tmp_path / "a.mcap", [entries[i] for i in (5, 4, 3, 2, 1, 0)], chunk_size=2 * 2400
    )
    assert len(read(path)[1]) == 6
    monkeypatch.setattr(mcap_file, "MAX_WAITING_BYTES", 3000)
    with pytest.raises(SourceError, match="overlap so far in time that .* wait .*`mcap sort`"):
        read(path)


def test_another_version_and_no_file(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP1\r\n" + bytes(50))
    with pytest.raises(SourceError, match="no MCAP file of version 0"):
        BagSource(tmp_path / "a.mcap")
    (tmp_path / "a.mcap").write_text("hello")
    with pytest.raises(SourceError, match="no MCAP file of version 0: it begins otherwise"):
        open_source(tmp_path / "a.mcap")
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        McapFile(tmp_path / "missing.mcap")
