"""Pictures in a store: the results of the same folder on a disk, and what is not read there is said."""

import json
import os
import subprocess
import sys

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.bulk import store as module
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk import s3
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT = 14


@pytest.fixture
def pictures(tmp_path):
    folder = write_pictures(tmp_path / "in", COUNT)
    write_pictures(folder / "sub" / "inner", 2)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "note.txt").write_bytes(b"x")
    return folder


@pytest.fixture
def kept(monkeypatch, pictures):
    """The pictures in a store in memory, of fsspec, which is one here because there is one process."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(module, "_HERE", ())
    memory.store.clear()
    for path in pictures.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/bucket/in/{path.relative_to(pictures)}", path.read_bytes())
    yield memory
    memory.store.clear()
    module._filesystem.cache_clear()


def told(listing):
    return [(item.index, item.folder, item.name, item.number) for item in listing.items]


def test_a_prefix_is_what_the_folder_is(pictures, kept):
    there, here = list_items("memory://bucket/in", None), list_items(pictures, None)
    assert told(there) == told(here)
    assert there.digest == here.digest
    assert there.others == here.others == 1
    assert there.items[-1].path == "memory://bucket/in/sub/inner/p001.png"
    kept.pipe_file("/bucket/in/p001.png", b"shorter")
    assert list_items("memory://bucket/in", None).digest != here.digest


def test_a_prefix_gives_the_files_of_the_folder(pictures, kept, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    bundle = write_plain_bundle(tmp_path / "depth")
    there = e2e.bulk("memory://bucket/in", bundle, tmp_path / "there", shard=4)
    here = e2e.bulk(pictures, bundle, tmp_path / "here", shard=4)
    assert results_of(tmp_path / "there") == results_of(tmp_path / "here")
    assert [f.index for f in there.failures] == [f.index for f in here.failures] == list(DAMAGED)
    assert there.failures[0].path == "memory://bucket/in/p003.png"
    assert there.failures[0].reason.startswith("memory://bucket/in/p003.png is not a picture")


def test_folders_there_may_have_any_name(pictures, kept, tmp_path, monkeypatch):
    """Keys hold what an address given by hand may not."""
    without_ray(monkeypatch)
    for name in ("take #3", "why?", "12::30", "a\nb", "é @ 50%"):
        data = (pictures / "p000.png").read_bytes()
        kept.pipe_file(f"/bucket/odd/{name}/x#1?.png", data)
    bundle = write_plain_bundle(tmp_path / "depth")
    report = e2e.bulk("memory://bucket/odd", bundle, tmp_path / "out", shard=4)
    assert (report.written, report.failures) == (5, [])
    folders = {name.rpartition("/")[0] for name in results_of(tmp_path / "out")}
    assert folders == {"take #3", "why?", "12::30", "a\nb", "é @ 50%"}


def test_lists_there_and_lists_of_addresses(pictures, kept, tmp_path):
    kept.pipe_file(
        "/bucket/in/l.csv", b"path\np000.png\nmemory://bucket/in/p001.png\n/disk/a.png\n"
    )
    paths = [item.path for item in list_items("memory://bucket/in/l.csv", None).items]
    there = ["memory://bucket/in/p000.png", "memory://bucket/in/p001.png"]
    assert paths == [*there, "/disk/a.png"]
    rows = [{"file": "a.png"}, {"file": there[1]}, {"file": "memory://bucket/in/clips.tar"}]
    (tmp_path / "l.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    items = list_items(tmp_path / "l.jsonl", "file").items
    assert [item.path for item in items[:2]] == [str(tmp_path / "a.png"), there[1]]
    assert "of a store single ones are" in items[2].part.reason


def test_what_is_wrong_there_is_a_sentence(kept, tmp_path):
    with pytest.raises(UsageError, match="`column` is of a list, and memory://"):
        list_items("memory://bucket/in", "path")
    with pytest.raises(SourceError, match=r"memory://bucket/none holds no pictures"):
        list_items("memory://bucket/none", None)
    with pytest.raises(SourceError, match=r"memory://bucket/in/none.csv is missing"):
        list_items("memory://bucket/in/none.csv", None)
    kept.pipe_file("/bucket/in/l.csv", b"path\n\xff\n")
    with pytest.raises(SourceError, match=r"line 2 of memory://bucket/in/l.csv is no UTF-8"):
        list_items("memory://bucket/in/l.csv", None)
    (tmp_path / "l.csv").write_text("path\ns3://key:secret@bucket/a.png\n")
    with pytest.raises(UsageError, match="credentials and options come from") as caught:
        list_items(tmp_path / "l.csv", None)
    assert "secret" not in str(caught.value)


def test_what_holds_many_is_said_not_to_be_read(kept):
    kept.pipe_file("/bucket/in/clips.tar", b"x")
    listing = list_items("memory://bucket/in", None)
    assert "such as clips.tar, are not read: of" in listing.notes[0]
    assert listing.others == 2


@s3.needs_s3
def test_pictures_in_s3_by_ray_and_the_command_line(pictures, tmp_path):
    bundle = write_plain_bundle(tmp_path / "depth")
    with s3.server() as given:
        theirs = s3.bucket("bucket", given["AWS_ENDPOINT_URL"])
        for path in pictures.rglob("*.png"):
            s3.put(theirs, f"bucket/in/{path.relative_to(pictures)}", path.read_bytes())
        command = [sys.executable, "-m", "e2e_deploy", "bulk", "s3://bucket/in", "--workers", "1"]
        command += ["--bundle", str(bundle), "--out", str(tmp_path / "out"), "--cores", "1"]
        surroundings = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            env=surroundings | given,
        )
    assert done.returncode == 1, done.stderr
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    found = results_of(tmp_path / "out")
    assert {name: data for name, data in found.items() if "/" not in name} == results_of(
        tmp_path / "ref"
    )
    assert sum("sub/inner" in name for name in found) == 4
    for path in (tmp_path / "out" / "_bulk").rglob("*"):
        assert path.is_dir() or s3.SECRET.encode() not in path.read_bytes(), path
