"""Tars are the folders that they would be unpacked to: the same files come of them, and damaged ones are a sentence."""

import io
import tarfile
from contextlib import suppress

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs.item import Missing
from e2e_deploy.runtime.bulk.inputs.tars import list_tar
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT = 14
LONG = "a" * 120 + "é.png"


def pack(tar, folder, names=None, format=tarfile.PAX_FORMAT):
    """A tar of files of a folder, backwards, as nobody promises an order; beside each a text."""
    with tarfile.open(tar, "w", format=format) as file:
        for path in sorted(folder.rglob("*.png"), reverse=True):
            name = (names or (lambda path: str(path.relative_to(folder))))(path)
            file.add(path, name)
            info = tarfile.TarInfo(f"{name}.txt")
            info.size = 3
            file.addfile(info, io.BytesIO(b"abc"))
    return tar


def sidecars_like(found, folder):
    return {n.removeprefix(folder): d for n, d in found.items() if n.startswith(folder)}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_gives_what_run_gives_of_its_folder(tmp_path, monkeypatch, format):
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", COUNT)
    if format != tarfile.USTAR_FORMAT:
        (pictures / "p000.png").rename(pictures / LONG)
    bundle = write_plain_bundle(tmp_path / "depth")
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    tar = pack(tmp_path / "in.tar", pictures, format=format)
    report = e2e.bulk(tar, bundle, tmp_path / "out", shard=4)
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")
    assert {f.path.rpartition("/")[2] for f in report.failures} == {"p003.png", "p011.png"}
    assert len(report.failures) == len(DAMAGED)
    assert all(f.path.startswith(f"{tar}/p") and f"{tar}/p" in f.reason for f in report.failures)


def test_tars_in_a_folder_have_folders_of_their_own(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", COUNT)
    shards = tmp_path / "shards"
    write_pictures(shards, 2)
    pack(shards / "000.tar", pictures)
    pack(shards / "001.tar", pictures, lambda path: f"./x/{path.name}")
    bundle = write_plain_bundle(tmp_path / "depth")
    report = e2e.bulk(shards, bundle, tmp_path / "out")
    found = results_of(tmp_path / "out")
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    e2e.run(shards, bundle, out=tmp_path / "ref-own", formats="png16")
    assert sidecars_like(found, "000.tar/") == results_of(tmp_path / "ref")
    assert sidecars_like(found, "001.tar/x/") == results_of(tmp_path / "ref")
    assert {n: d for n, d in found.items() if "/" not in n} == results_of(tmp_path / "ref-own")
    assert report.pictures == 2 * COUNT + 2


def test_a_list_names_tars_beside_pictures(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", 3)
    pack(tmp_path / "all.tar", pictures)
    (tmp_path / "l.csv").write_text("path\nin/p000.png\nall.tar\nno.tar\n")
    bundle = write_plain_bundle(tmp_path / "depth")
    report = e2e.bulk(tmp_path / "l.csv", bundle, tmp_path / "out")
    names = {name.partition("_depth")[0] for name in results_of(tmp_path / "out")}
    assert names == {"p000", "all/p000", "all/p001", "all/p002"}
    assert [failure.index for failure in report.failures] == [4]
    assert "no.tar cannot be read" in report.failures[0].reason


def test_of_a_name_that_is_there_twice_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for size in (5, 7):
            info = tarfile.TarInfo("./b/a.png")
            info.size = size
            file.addfile(info, io.BytesIO(bytes(size)))
        file.addfile(tarfile.TarInfo(".hidden.png"))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    (place,) = list_tar(tmp_path / "a.tar").places
    assert (place.folder, place.name, place.part.length) == ("b", "a", 7)


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(tarfile.TarInfo(name))
    with pytest.raises(SourceError, match="a member is called"):
        list_tar(tmp_path / "a.tar")


def test_a_tar_that_is_cut_off_gives_what_is_there(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    tar = pack(tmp_path / "a.tar", write_pictures(tmp_path / "in", 3))
    whole = [place.name for place in list_tar(tar).places]
    tar.write_bytes(tar.read_bytes()[:-12000])
    *_, last = places = list_tar(tar).places
    assert isinstance(last.part, Missing)
    assert 0 < len(places) - 1 < len(whole)
    report = e2e.bulk(tar, write_plain_bundle(tmp_path / "depth"), tmp_path / "out")
    assert not report.complete
    assert "a.tar is damaged or cut off after" in report.failures[-1].reason


def test_what_is_no_tar_is_a_sentence_and_no_memory(tmp_path, rng):
    path = tmp_path / "a.tar"
    for data in (b"", b"text", rng.bytes(5000), bytes(1024)):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"not a tar that can be read|holds no pictures"):
            e2e.bulk(path, write_plain_bundle(tmp_path / "b"), tmp_path / "out")
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(SourceError, match="a header of 1,099,511,627,776 bytes"):
        list_tar(path)


def test_damaged_bytes_anywhere_are_a_sentence(tmp_path, rng):
    tar = pack(tmp_path / "a.tar", write_pictures(tmp_path / "in", 3), format=tarfile.GNU_FORMAT)
    whole = tar.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        at = 512 * int(rng.integers(len(data) // 512))
        data[at + int(rng.integers(512))] ^= int(rng.integers(1, 256))
        tar.write_bytes(data)
        with suppress(SourceError):
            list_tar(tar)
