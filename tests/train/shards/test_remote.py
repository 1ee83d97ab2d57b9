"""Packed data sets at an address: samples and order of the folder, kept on disk up to a bound, and what fails."""

import json

import numpy as np
import pytest
import torch

from e2e_deploy import pack_data
from e2e_deploy.errors import DataError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.train.config.reading import config_table, parse_config
from e2e_deploy.train.data.batches import MixedBatches, Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.pretraining.pretrain import _Pretraining
from e2e_deploy.train.pretraining.views import load_pictures
from e2e_deploy.train.run.heldout import HeldOut
from e2e_deploy.train.shards import fetching, remote
from e2e_deploy.train.shards.fetching import fetch
from e2e_deploy.train.training import train_model
from tests.train.fixtures import write_folder
from tests.train.shards.ranged import files_served
from tests.train.small_runs import logged, one_thread, run_table

assert one_thread  # a fixture


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def served(tmp_path):
    """A packed set of seven samples on a server."""
    write_folder(tmp_path / "files", num_samples=7)
    pack_data(tmp_path / "files", tmp_path / "tars")
    with files_served(tmp_path / "tars") as served:
        yield served


def kept(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def batches_of(root, **options):
    data = FolderDataset(root, task="depth", **options)
    return MixedBatches([Part(data, 1, (32, 40))], batch_size=2, per_step=1)


def test_batches_are_those_of_the_folder_and_the_second_epoch_asks_nobody(tmp_path, served):
    ours, theirs = batches_of(tmp_path / "files"), batches_of(served.address)
    for step in range(7):  # two epochs
        mine, its = ours.batch_at(step, 0), theirs.batch_at(step, 0)
        for key in ("rgb", "depth_m", "valid"):
            assert torch.equal(mine[key], its[key]), key
    first = served.asked[:]
    assert len(first) == 2 + 2 * 7  # dataset.toml, the index; rgb and depth of each sample
    assert all(part for path, part in first if path.endswith(".tar"))
    again = list(batches_of(served.address + "/").loader(2, 4, workers=1))
    assert all(torch.equal(a["rgb"], ours.batch_at(n, 0)["rgb"]) for n, a in enumerate(again, 2))
    assert [path for path, _ in served.asked[len(first) :]] == [path for path, _ in first[:2]]
    paths, data = theirs.parts[0].dataset.read(0).path, FolderDataset(served.address)
    assert paths == f"{served.address}/train/rgb/s000.png"
    assert data.fingerprint() == FolderDataset(tmp_path / "files").fingerprint()


@pytest.mark.parametrize("share", [0, 0.4])
def test_what_is_kept_is_bounded(tmp_path, served, share):
    (tar,) = (tmp_path / "tars" / "train" / "shards").glob("*.tar")
    bound = share * tar.stat().st_size
    data = FolderDataset(served.address, cache_gb=bound / 1e9)
    for index in (6, 5, 4, 3, 2, 1, 0):
        data.read(index)
    total = sum(path.stat().st_size for path in kept(tmp_path))
    assert 0.5 * bound <= total <= bound
    num = len(served.asked)
    data.read(0)
    assert len(served.asked) == num + (0 if share else 3)


def test_a_smaller_bound_frees_what_a_larger_one_kept(tmp_path, served):
    data = FolderDataset(served.address)
    for index in range(7):
        data.read(index)
    sizes = {path: path.stat().st_size for path in kept(tmp_path)}
    bound = sum(sizes.values()) // 2
    FolderDataset(served.address, cache_gb=bound / 1e9)
    left = {path: sizes[path] for path in kept(tmp_path)}
    assert bound / 2 < sum(left.values()) <= bound
    first = sorted(sizes, key=lambda path: int(path.name))[: len(left)]
    assert set(left) == set(first)
    FolderDataset(served.address, cache_gb=0)
    assert kept(tmp_path) == []


def test_what_is_damaged_on_disk_is_read_again_and_another_index_begins_anew(tmp_path, served):
    FolderDataset(served.address).read(0)
    whole = {path: path.read_bytes() for path in kept(tmp_path)}
    assert len(whole) == 3
    for path, content in whole.items():
        path.write_bytes(content[:-1] + b"?")
    sample = FolderDataset(served.address).read(0)
    assert np.array_equal(sample.rgb, FolderDataset(tmp_path / "files").read(0).rgb)
    assert {path: path.read_bytes() for path in kept(tmp_path)} == whole
    index = tmp_path / "tars" / "train" / "shards" / "index.json"
    index.write_text(index.read_text() + "\n")
    FolderDataset(served.address)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("how", ["cut", "503"])
def test_a_connection_that_is_lost_is_tried_again_and_then_said(served, how):
    data, served.how = FolderDataset(served.address, cache_gb=0), how
    served.failures = 4
    data.read(0)
    served.failures = 5
    batches = MixedBatches([Part(data, 1, (32, 40))], batch_size=2, per_step=1)
    # Not a bad sample, in whose place another one would be learned from.
    with pytest.raises(E2EDeployError, match="could not be read in 5 tries: .*go on from") as told:
        batches.batch_at(0, 0)
    assert not isinstance(told.value, DataError)
    served.failures = 0
    assert batches.batch_at(0, 0)["bad"] == []


def test_nobody_there_is_said(served):
    with pytest.raises(E2EDeployError, match="could not be read in 5 tries: .*refused"):
        fetch("http://127.0.0.1:1/x", limit=9)
    with pytest.raises(DataError, match="dataset.toml: the server answers 404"):
        FolderDataset(served.address + "/elsewhere")
    with pytest.raises(DataError, match="test/shards/index.json: the server answers 404"):
        FolderDataset(served.address, "test")


@pytest.mark.parametrize("how", ["401", "403", "416", "501", "whole", "gone"])
def test_what_may_no_longer_be_read_ends_the_run_and_is_no_bad_sample(tmp_path, served, how):
    batches = batches_of(served.address)
    batches.parts[0].dataset.read(0)  # kept, so it could be taken in the place of others
    told = "the server answers " + how
    if how == "whole":
        served.how, told = how, "sends whole files alone"
    elif how == "gone":
        next((tmp_path / "tars" / "train" / "shards").glob("*.tar")).unlink()
        told = "000000.tar: the server answers 404 Not Found, though the index names it"
    else:
        served.how, served.failures = how, 99
    num = len(served.asked)
    with pytest.raises(E2EDeployError, match=told) as error:
        for step in range(4):
            batches.batch_at(step, 0)
    assert not isinstance(error.value, DataError)
    assert len(served.asked) == num + 1


def test_a_file_that_was_cut_is_not_taken_for_whole(tmp_path, served):
    served.failures = 1  # "half", where 1000 bytes are announced
    whole = (tmp_path / "tars" / "dataset.toml").read_bytes()
    assert fetch(f"{served.address}/dataset.toml", limit=9999) == whole
    served.failures = 5
    with pytest.raises(E2EDeployError, match="in 5 tries: the connection ended early"):
        FolderDataset(served.address)


def test_what_trickles_in_is_given_up_in_time(served, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_S", 0.1)
    data, served.how = FolderDataset(served.address, cache_gb=0), "slow"
    with pytest.raises(E2EDeployError, match=r"in 5 tries: it takes longer than 0\.1 s"):
        data.read(0)
    assert 5 <= served.trickled < 5 * 40  # bytes that five tries would have brought


def test_what_came_whole_is_not_late(served, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_S", 0)
    index = f"{served.address}/dataset.toml"
    assert fetch(index, limit=9999, part=(0, 4)) == fetch(index, limit=9999)[:4]


def test_a_file_larger_than_its_bound_is_refused(served):
    with pytest.raises(DataError, match="has more than 10 bytes"):
        fetch(f"{served.address}/dataset.toml", limit=10)


def test_other_stores_are_fsspecs(tmp_path, served, monkeypatch):
    class Store:
        def open(self, path, mode):
            return open(tmp_path / path.removeprefix("made://bucket/"), mode)

        def cat_file(self, path, start, end):
            if path.endswith("gone"):
                raise RuntimeError("its driver's")
            if path.endswith("secret"):
                raise PermissionError("ExpiredToken")
            with self.open(path, "rb") as file:
                file.seek(start)
                return file.read(end - start)

    monkeypatch.setattr(fetching, "_store", lambda scheme: Store())
    sample = FolderDataset("made://bucket/tars").read(3)
    assert np.array_equal(sample.rgb, FolderDataset(tmp_path / "files").read(3).rgb)
    assert sample.path == "made://bucket/tars/train/rgb/s003.png"
    with pytest.raises(DataError, match="dataset.toml is not there"):
        FolderDataset("made://bucket/none")
    with pytest.raises(E2EDeployError, match="in 5 tries: RuntimeError: its driver's"):
        fetch("made://bucket/gone", limit=9, part=(0, 9))
    with pytest.raises(E2EDeployError, match="secret may not be read: ExpiredToken; run") as told:
        fetch("made://bucket/secret", limit=9, part=(0, 9))
    assert not isinstance(told.value, DataError)


def test_stores_that_cannot_be_spoken_to_are_named():
    with pytest.raises(UsageError, match="nostore:// is no store"):
        fetch("nostore://a/b", limit=9)
    with pytest.raises(UnavailableError, match="abfs:// needs a package: "):
        fetch("abfs://a/b", limit=9)


@pytest.mark.parametrize(
    "address", ["s3://key:secret@bucket/set", "https://host/set?token=secret", "s3:///set"]
)
def test_an_address_holds_no_password(address):
    with pytest.raises(UsageError, match="no password and no query") as told:
        FolderDataset(address)
    assert "secret" not in str(told.value)


def test_an_index_is_not_trusted(tmp_path, served):
    file = tmp_path / "tars" / "train" / "shards" / "index.json"
    good = json.loads(file.read_text())
    (tar,) = good["tars"]
    name, offset, size, crc32 = tar["members"][0]
    for members, told in (
        ([[name, offset, 2**31, crc32]], "lies outside its tar"),
        ([[name, -1, size, crc32]], "lies outside its tar"),
        ([[name, tar["size"], 1, crc32]], "lies outside its tar"),
        ([[name, offset, True, crc32]], "not a name and three numbers"),
        ([tar["members"][0]] * 2, "is there before"),
        ([[name, offset, size]], "not an index of shards"),
        ([], "no shard holds anything"),
    ):
        file.write_text(json.dumps(good | {"tars": [tar | {"members": members}]}))
        with pytest.raises(DataError, match=told):
            FolderDataset(served.address)
    for table, told in (
        (good | {"schema": 2}, "its schema is 2, expected 1"),
        (good | {"tars": [tar | {"name": "../x.tar"}]}, "is no name of a tar"),
        ([], "index.json"),
    ):
        file.write_text(json.dumps(table))
        with pytest.raises(DataError, match=told):
            FolderDataset(served.address)
    changed = [[name, offset, size, crc32 ^ 1], *tar["members"][1:]]
    file.write_text(json.dumps(good | {"tars": [tar | {"members": changed}]}))
    data = FolderDataset(served.address)
    with pytest.raises(DataError, match=f"{name} is not what the index says; pack"):
        data.read(0)
    data.read(1)


def test_a_run_trains_from_an_address_as_from_the_folder(tmp_path, served):
    steps = []
    for name, root in (("one", str(tmp_path / "files")), ("two", served.address)):
        (tmp_path / name).mkdir()
        table = run_table(tmp_path, optim={"steps": 2}, run={"out": str(tmp_path / name)})
        table["data"][0]["root"] = root
        train_model(parse_config(table))
        steps.append(logged(tmp_path / name))
    assert steps[0] == steps[1]
    table["data"][0]["cache_gb"] = 0.001  # such a run may go on
    table["optim"]["steps"] = 3
    assert train_model(parse_config(table)).progress.step == 3
    table["data"][0] |= {"root": str(tmp_path / "files"), "cache_gb": 1.0}
    with pytest.raises(UsageError, match=r"data\[0\].cache_gb is for a data set at an address"):
        parse_config(table)


def test_held_out_pictures_and_pretraining_keep_to_their_bounds(tmp_path, served, monkeypatch):
    table = run_table(tmp_path, eval={"root": served.address, "split": "train", "cache_gb": 0.0})
    HeldOut(parse_config(table).eval, "depth").read(0)
    assert kept(tmp_path) == []
    load_pictures(served.address, (16, 16), limit=1, cache_gb=0)
    assert kept(tmp_path) == []
    HeldOut(parse_config(table | {"eval": table["eval"] | {"cache_gb": 1.0}}).eval, "depth").read(0)
    assert len(kept(tmp_path)) == 2
    pretrain = {"autoencoder_steps": 1, "unet_steps": 1, "images": 1}
    data = {"root": served.address, "size": [16, 16], "cache_gb": 0.0}
    run = parse_config(
        table | {"start": {"checkpoint": "random"}, "pretrain": pretrain, "data": [data]}
    )
    assert len(_Pretraining(run, torch.device("cpu")).pictures.rgb) == 1
    assert kept(tmp_path) == []
    monkeypatch.setattr(remote, "DEFAULT_GB", 0)  # which would remove what is kept
    data["cache_gb"] = 1.0
    run = parse_config(config_table(run) | {"data": [data]})
    for asked in (True, False):
        num = len(served.asked)
        assert len(_Pretraining(run, torch.device("cpu")).pictures.rgb) == 1
        assert any(part for _, part in served.asked[num:]) == asked
    table["eval"]["root"] = str(tmp_path)
    with pytest.raises(UsageError, match=r"eval.cache_gb is for a data set at an address"):
        parse_config(table)
