"""Videos in a bulk run: the files of ``run``, frame for frame, in folders and lists, whatever dies."""

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, SourceError
from e2e_deploy.runtime.bulk.bulk import MAX_BLOCKS, _blocks
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from e2e_deploy.runtime.bulk.parcel import from_orders
from e2e_deploy.runtime.sources.video_stretches import LEAST
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import results_of, without_ray, write_pictures
from tests.runtime.sources.test_video_stretches import OPEN, moving
from tests.videos import write_video

COUNT = 2 * LEAST + 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "phone clip.mp4"
    ticks = [40 * i + 7 * (i % 3) for i in range(COUNT)]
    write_video(path, moving(COUNT), options=OPEN, ticks=ticks, turn=90)
    return path


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "depth")


def test_the_files_of_run(clip, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch, order=reversed)
    report = e2e.bulk(clip, bundle, tmp_path / "out", shard=7)
    e2e.run(clip, bundle, out=tmp_path / "ref", formats="png16")
    found = results_of(tmp_path / "out")
    assert len(found) == 2 * COUNT
    assert found == results_of(tmp_path / "ref")
    assert report.complete


def test_a_video_whose_name_is_as_long_as_names_may_be(clip, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / ("n" * 251 + ".mp4")
    path.write_bytes(clip.read_bytes())
    assert e2e.bulk(tmp_path / "in", bundle, tmp_path / "out").complete
    e2e.run(path, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out" / path.name) == results_of(tmp_path / "ref")


def test_of_several_frame_sizes_the_one_that_run_takes(clip, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    bundle = write_plain_bundle(tmp_path / "depth", sizes=((24, 32), (48, 32)))
    e2e.bulk(clip, bundle, tmp_path / "out")
    e2e.run(clip, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_a_video_is_one_whatever_it_is_called(clip, tmp_path):
    other = tmp_path / "no suffix"
    other.write_bytes(clip.read_bytes())
    assert len(list_items(other, None).items) == COUNT
    write_video(tmp_path / "moving.gif", moving(5), codec="gif", form="gif", pixels="rgb8")
    assert len(list_items(tmp_path / "moving.gif", None).items) == 5
    assert len(list_items(tmp_path, None).items) == 1  # a picture, as in a folder `run` takes it


def test_in_a_folder_beside_pictures(clip, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    folder = write_pictures(tmp_path / "in", 3)
    (folder / "a b").mkdir()
    (folder / "a b" / clip.name).write_bytes(clip.read_bytes())
    (folder / "aaa.mp4").write_bytes(b"no video")
    report = e2e.bulk(folder, bundle, tmp_path / "out")
    found = results_of(tmp_path / "out")
    e2e.run(clip, bundle, out=tmp_path / "ref", formats="png16")
    own = f"a b/{clip.name}/"
    inner = {n.removeprefix(own): data for n, data in found.items() if n.startswith(own)}
    assert inner == results_of(tmp_path / "ref")
    e2e.run(folder, bundle, out=tmp_path / "pictures", formats="png16")
    assert {n: d for n, d in found.items() if "/" not in n} == results_of(tmp_path / "pictures")
    (failure,) = report.failures
    assert "aaa.mp4 is not a video" in failure.reason


@pytest.mark.parametrize("alive", [1, 12])
def test_what_died_goes_on_in_the_middle_of_a_stretch(clip, bundle, tmp_path, monkeypatch, alive):
    begun = []

    def die(parcel):
        if len(begun) == alive:
            raise RuntimeError("the end")
        begun.append(parcel.shard)

    without_ray(monkeypatch, before_write=die)
    with pytest.raises(E2EDeployError, match="the end"):
        e2e.bulk(clip, bundle, tmp_path / "out", shard=7)
    again = []
    without_ray(monkeypatch, before_write=lambda parcel: again.append(parcel.shard))
    report = e2e.bulk(clip, bundle, tmp_path / "out", shard=7)
    assert not set(begun) & set(again)
    assert 0 < report.before <= 7 * alive  # a stretch may end with a smaller shard
    assert report.finished == COUNT
    e2e.run(clip, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_a_video_that_is_cut_off_is_in_the_table(bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    path = tmp_path / "cut.mkv"
    write_video(path, moving(40), options=OPEN)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    report = e2e.bulk(path, bundle, tmp_path / "out")
    with pytest.raises(SourceError, match="is cut off"):
        e2e.run(path, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")
    assert "cut.mkv is cut off: " in report.failures[-1].reason
    assert not report.complete


def test_frames_are_few_bytes_and_a_stretch_is_one_order(clip):
    listing = list_items(clip, None)
    shards = listing.shards(16)
    assert [len(listing.items), sum(map(len, shards))] == [COUNT, COUNT]
    tables = list(_blocks(listing.items, shards, list(range(len(shards)))))
    assert len(tables) <= MAX_BLOCKS
    orders = [order for table in tables for order in from_orders(table)]
    assert len(orders) == len({id(item.stretch) for item in listing.items}) > 1
    assert sum(table.nbytes for table in tables) < 400 * COUNT
    assert listing.digest == list_items(clip, None).digest


def test_parquet_has_a_name_for_each_frame(clip, bundle, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    without_ray(monkeypatch)
    e2e.bulk(clip, bundle, tmp_path / "out", format="parquet")
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert [row["name"] for row in rows] == [f"phone clip_{i:06d}" for i in range(COUNT)]
    assert rows[5]["path"] == f"{clip}#5"
