"""Files that hold a shard's results: the bytes of ``run``, read by other libraries, whole or absent."""

import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as parquet
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, UsageError
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT = 14


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that makes a bulk run of a format, and what ``run`` writes of the same pictures."""
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", COUNT)
    depth = write_plain_bundle(tmp_path / "depth")
    normals = write_plain_bundle(tmp_path / "normals", task="normals")

    def make(name, format):
        e2e.bulk(pictures, [depth, normals], tmp_path / name, format=format, shard=4)
        return tmp_path / name

    for bundle in (depth, normals):
        e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    return make, results_of(tmp_path / "ref")


def test_parquet(made):
    make, expected = made
    files = sorted(make("out", "parquet").glob("*"))
    assert [f.name for f in files[1:]] == [f"shard-{n:06d}.parquet" for n in range(4)]
    rows = [row for file in files[1:] for row in parquet.read_table(file).to_pylist()]
    assert [row["index"] for row in rows] == [n for n in range(COUNT) if n not in DAMAGED]
    found = {}
    for row in rows:
        for output in ("depth", "normals"):
            found[f"{row['name']}_{output}.png"] = row[output]
            found[f"{row['name']}_{output}.json"] = row[f"{output}_sidecar"].encode()
        assert row["path"].endswith(f"in/p{row['index']:03d}.png")
        assert row["folder"] == ""
    assert found == expected
    depth = cv2.imdecode(np.frombuffer(rows[0]["depth"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert (depth.dtype, depth.shape) == (np.uint16, (24, 32))


def test_webdataset(made):
    make, expected = made
    samples = {}
    for path in sorted(make("out", "webdataset").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")  # as WebDataset divides names
                samples.setdefault(key, {})[field] = tar.extractfile(member).read()
    # As wide as each other, so that the order of names is that of pictures.
    assert sorted(samples) == [f"{n:09d}" for n in range(COUNT) if n not in DAMAGED]
    found = {}
    for sample in samples.values():
        assert set(sample) == {
            "path.txt",
            *(f"{o}.{e}" for o in ("depth", "normals") for e in ("png", "json")),
        }
        for output in ("depth", "normals"):
            name = json.loads(sample[f"{output}.json"])["source"]["name"]
            found[f"{name}_{output}.png"] = sample[f"{output}.png"]
            found[f"{name}_{output}.json"] = sample[f"{output}.json"]
    assert found == expected


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_the_same_shard_has_the_same_bytes(made, format):
    make, _ = made
    assert results_of(make("one", format)) == results_of(make("two", format))


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_shard_that_could_not_be_written_is_absent(made, monkeypatch, tmp_path, format):
    make, _ = made
    whole = results_of(make("whole", format))

    def full(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file() and "_bulk" not in path.parts:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(E2EDeployError, match="No space left on device; 0 of 14"):
            make("out", format)
    assert not results_of(tmp_path / "out")
    assert results_of(make("out", format)) == whole


def test_an_unknown_format_or_another_one(made):
    make, _ = made
    with pytest.raises(UsageError, match="unknown `format` 'png'; the formats are png16, parquet"):
        make("out", "png")
    make("out", "png16")
    with pytest.raises(UsageError, match="begun with other settings"):
        make("out", "parquet")
