"""Data sets in tars: the same samples in the same order as from single files, and damage said in a sentence."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from e2e_deploy import pack_data
from e2e_deploy.cli import group
from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.data.batches import MixedBatches, Part
from e2e_deploy.train.data.check import check_data
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.shards.tars import Shards
from tests.train.fixtures import write_folder, write_pictures


def batches_of(root, task="depth", size=(32, 40)):
    return MixedBatches([Part(FolderDataset(root, task=task), 1, size)], batch_size=2, per_step=1)


def assert_same(one, other, task="depth"):
    ours, theirs = batches_of(one, task), batches_of(other, task)
    for step in range(5):
        mine, its = ours.batch_at(step, 0), theirs.batch_at(step, 0)
        for key in ("rgb", "depth_m", "normals", "picture", "valid"):
            assert torch.equal(mine[key], its[key]), key
    assert FolderDataset(one).fingerprint() == FolderDataset(other).fingerprint()


@pytest.mark.parametrize("depth", ["png16", "npy"])
def test_a_packed_set_gives_the_same_batches(tmp_path, depth):
    root = write_folder(
        tmp_path / "files", num_samples=7, splits=("train", "val"), depth_format=depth
    )
    (root / "train" / "depth" / f"s003.{depth[:3]}").unlink()  # such a sample stays behind
    seen = []
    report = pack_data(root, tmp_path / "tars", shard_mb=1, on_progress=lambda *n: seen.append(n))
    assert (report.num_samples, report.num_shards) == (13, 2)
    assert seen[-1] == (13, 13)
    assert not list((tmp_path / "tars").rglob("*.png"))
    assert_same(root, tmp_path / "tars")
    assert check_data(tmp_path / "tars").ok
    assert FolderDataset(tmp_path / "tars", "val").stems == FolderDataset(root, "val").stems


def test_masks_are_packed_and_shards_end_at_their_size(tmp_path):
    rng = np.random.default_rng(0)
    root = write_pictures(tmp_path / "files", num_samples=4, size=(32, 40))
    import cv2

    for file in (root / "train" / "rgb").iterdir():
        cv2.imwrite(str(file), rng.integers(0, 255, (600, 700, 3), dtype=np.uint8))
    report = pack_data(root, tmp_path / "tars", shard_mb=2)
    assert report.num_shards == 2
    shards = Shards(tmp_path / "tars" / "train" / "shards")
    assert shards.names("mask.png") == {"s0", "s1", "s2", "s3"}
    with tarfile.open(tmp_path / "tars" / "train" / "shards" / "000000.tar") as tar:
        names = tar.getnames()
    assert names == [f"s{i}.{kind}.png" for i in (0, 1) for kind in ("rgb", "mask", "matte")]


def test_tars_of_other_programs_are_read(tmp_path):
    """Long names by GNU and PAX headers, folders in between, samples in several tars."""
    root = write_folder(tmp_path / "files", num_samples=2)
    packed = tmp_path / "tars"
    shutil.copytree(root, packed)
    shutil.rmtree(packed / "train")
    shards = packed / "train" / "shards"
    shards.mkdir(parents=True)
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(shards / f"{number}.tar", "w", format=form) as tar:
            folder = tarfile.TarInfo("x" * 120)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for kind in ("rgb", "depth", "normals"):
                content = (root / "train" / kind / f"s00{number}.png").read_bytes()
                member = tarfile.TarInfo(f"{'x' * 120}/{'é' * 60}s00{number}.{kind}.png")
                member.size, member.mtime = len(content), 1.5
                tar.addfile(member, io.BytesIO(content))
    data = FolderDataset(packed)
    assert data.stems == [f"{'é' * 60}s000", f"{'é' * 60}s001"]
    ours = FolderDataset(root)
    for index in (0, 1):
        assert np.array_equal(data.read(index).rgb, ours.read(index).rgb)


@pytest.fixture
def packed(tmp_path):
    pack_data(write_folder(tmp_path / "files", num_samples=3), tmp_path / "tars")
    return tmp_path / "tars"


def test_damaged_tars_are_a_sentence(packed):
    (tar,) = (packed / "train" / "shards").glob("*.tar")
    whole = tar.read_bytes()
    for content, told in (
        (whole[: len(whole) // 2], "cut off|its end is missing"),
        (whole[:100] + b"\xff" + whole[101:], "not a readable tar"),
        (b"", "its end is missing"),
    ):
        tar.write_bytes(content)
        with pytest.raises(DataError, match=told):
            FolderDataset(packed)
    for kind, told in ((tarfile.SYMTYPE, "is no file"), (tarfile.XHDTYPE, "damaged|invalid")):
        info = tarfile.TarInfo("s000.rgb.png")
        info.type, info.size, info.linkname = (
            kind,
            0 if kind == tarfile.SYMTYPE else 20,
            "/etc/passwd",
        )
        tar.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + b"9999999 path=x\n" + bytes(497 + 1024))
        with pytest.raises(DataError, match=told):
            FolderDataset(packed)
    tar.write_bytes(whole)
    tar.with_name("twice.tar").write_bytes(whole)
    with pytest.raises(DataError, match="is there before"):
        FolderDataset(packed)
    tar.with_name("twice.tar").unlink()
    data = FolderDataset(packed)
    tar.write_bytes(whole[:600])
    with pytest.raises(DataError, match="is cut off"):
        data.read(2)
    tar.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        data.read(0)
    with pytest.raises(DataError, match="no shard"):
        Shards(tar.parent)


def test_headers_are_bounded(packed):
    (tar,) = (packed / "train" / "shards").glob("*.tar")
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**20 + 512
    tar.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20 + 2048))
    with pytest.raises(DataError, match="a header of 1,049,088 bytes"):
        FolderDataset(packed)


def test_what_cannot_be_packed_is_refused(packed, tmp_path):
    with pytest.raises(UsageError, match="packed already"):
        pack_data(packed, tmp_path / "again")
    with pytest.raises(UsageError, match="is there"):
        pack_data(tmp_path / "files", packed)
    with pytest.raises(UsageError, match="`shard_mb` is 0"):
        pack_data(tmp_path / "files", tmp_path / "o", shard_mb=0)
    exr = write_folder(tmp_path / "exr", num_samples=1, normals_format=None)
    spec = (exr / "dataset.toml").read_text().replace('"png16"', '"exr"')
    (exr / "dataset.toml").write_text(spec)
    (exr / "train" / "depth" / "s000.png").rename(exr / "train" / "depth" / "s000.exr")
    with pytest.raises(UsageError, match="in EXR files"):
        pack_data(exr, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_verb_packs(tmp_path):
    root = write_folder(tmp_path / "files", num_samples=3)
    words = ["data", "pack", str(root), str(tmp_path / "tars"), "--shard-mb", "1", "--json"]
    done = CliRunner().invoke(group, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_samples"] == 3
    assert_same(root, tmp_path / "tars")
