"""Robots' logs in a bulk run: the files of ``run``, however the log is stored and wherever it is split."""

import numpy as np
import pytest
from mcap.writer import IndexType
from rosbags.rosbag2 import CompressionMode, StoragePlugin

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.bulk.inputs import logs
from e2e_deploy.runtime.bulk.inputs.item import Missing
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from e2e_deploy.runtime.bulk.inputs.reading import read_items
from e2e_deploy.runtime.sources.bag.mcap_file import McapFile
from tests import bags
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import results_of, without_ray

COUNT, EACH = 30, 5
TOPIC = "/camera/image_raw"
KINDS = {
    "a.mcap": lambda path, entries: bags.write_mcap(path, entries, chunk_size=6000),
    "plain.mcap": lambda path, entries: bags.write_mcap(path, entries, use_chunking=False),
    "unindexed.mcap": lambda path, entries: bags.write_mcap(
        path, entries, chunk_size=6000, index_types=IndexType.CHUNK
    ),
    "folder": bags.write_folder,
    "packed": lambda path, entries: bags.write_folder(path, entries, mode=CompressionMode.FILE),
    "messages": lambda path, entries: bags.write_folder(
        path, entries, storage=StoragePlugin.MCAP, mode=CompressionMode.MESSAGE
    ),
}


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch):
    monkeypatch.setattr(logs, "LEAST", EACH)


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "depth")


def entries(count=COUNT):
    """Pictures with their cameras, and a second camera, as they are recorded: some at the same time."""
    rgbs = bags.pictures(count)
    front = [(t, ns - ns % (3 * bags.STEP_NS), m) for t, ns, m in bags.stream(rgbs)]
    rear = bags.stream(rgbs[::-1], "/rear/image_raw", frame_id="rear")
    both = [*front, *rear, *bags.infos(count, focal=41.5)]
    return sorted(both, key=lambda entry: entry[1])


def written(tmp_path, name):
    return KINDS[name](tmp_path / name, entries())


@pytest.mark.parametrize("name", KINDS)
def test_the_files_of_run(tmp_path, bundle, monkeypatch, name):
    without_ray(monkeypatch, order=reversed)
    log = written(tmp_path, name)
    report = e2e.bulk(log, bundle, tmp_path / "out", topic=TOPIC, shard=4)
    e2e.run(log, bundle, topic=TOPIC, out=tmp_path / "ref", formats="png16")
    found = results_of(tmp_path / "out")
    assert len(found) == 2 * COUNT
    assert found == results_of(tmp_path / "ref")
    assert report.complete


def test_two_results_of_the_second_camera(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    log = written(tmp_path, "a.mcap")
    both = write_plain_bundle(tmp_path / "both", task="geometry")
    e2e.bulk(log, both, tmp_path / "out", topic="/rear/image_raw")
    e2e.run(log, both, topic="/rear/image_raw", out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


@pytest.mark.parametrize("name", ["a.mcap", "folder"])
def test_any_part_of_a_stretch_is_read_by_itself(tmp_path, name, rng):
    items = list_items(written(tmp_path, name), None, TOPIC).items
    stretches = {id(item.stretch): [] for item in items}
    for item in items:
        stretches[id(item.stretch)].append(item)
    assert len(stretches) == len(items) // 6  # three are of one time, and are not parted
    expected = bags.pictures(COUNT)
    for stretch in stretches.values():
        some = [item for item in stretch if rng.random() < 0.6]
        for item, read in read_items(some, print):
            np.testing.assert_array_equal(read.rgb, expected[item.number])


def test_listing_reads_no_chunk_and_reading_few(tmp_path, monkeypatch):
    read, of = [], McapFile._chunk_at
    monkeypatch.setattr(
        McapFile, "_chunk_at", lambda self, s, place, d: read.append(place) or of(self, s, place, d)
    )
    log = written(tmp_path, "a.mcap")
    items = list_items(log, None, TOPIC).items
    looked = len(read)
    chunks = len(McapFile(log)._chunks)
    assert looked < 4 < chunks  # for the first picture
    list(read_items(items[18:24], print))
    assert len(read) - looked < chunks / 2


def test_damage_costs_its_pictures_alone(tmp_path, bundle, monkeypatch):
    without_ray(monkeypatch)
    log = written(tmp_path, "a.mcap")
    data = bytearray(log.read_bytes())
    place = McapFile(log)._chunks[6].place
    data[place + 200 : place + 300] = bytes(100)
    log.write_bytes(data)
    report = e2e.bulk(log, bundle, tmp_path / "out", topic=TOPIC)
    assert 0 < len(report.failures) < 6
    assert all("is damaged" in f.reason and "a.mcap#" in f.reason for f in report.failures)
    assert report.written == COUNT - len(report.failures)


@pytest.mark.parametrize("name", ["a.mcap", "plain.mcap"])
def test_a_log_that_is_cut_off(tmp_path, bundle, monkeypatch, name):
    without_ray(monkeypatch)
    log = written(tmp_path, name)
    log.write_bytes(log.read_bytes()[: log.stat().st_size * 6 // 10])
    report = e2e.bulk(log, bundle, tmp_path / "out", topic=TOPIC)
    with pytest.raises(E2EDeployError, match="is cut off"):
        e2e.run(log, bundle, topic=TOPIC, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")
    (failure,) = report.failures
    assert "is cut off" in failure.reason


def test_topics(tmp_path, bundle, monkeypatch):
    without_ray(monkeypatch)
    log = written(tmp_path, "a.mcap")
    with pytest.raises(UsageError, match="say which by `topic`"):
        e2e.bulk(log, bundle, tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="`topic` is for logs and data sets"):
        e2e.bulk(tmp_path / "in", bundle, tmp_path / "out", topic=TOPIC)
    log.rename(tmp_path / "in" / log.name)
    bags.write_folder(tmp_path / "in" / "bag", entries(6))
    listing = list_items(tmp_path / "in", None, TOPIC)
    folders = {item.folder for item in listing.items}
    assert folders == {"a.mcap", "bag"}
    assert len(listing.items) == COUNT + 6
    assert not any(isinstance(item.part, Missing) for item in listing.items)
    other = list_items(tmp_path / "in", None, "/rear/image_raw")
    assert other.digest != listing.digest
