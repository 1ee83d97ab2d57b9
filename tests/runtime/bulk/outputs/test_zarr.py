"""Zarr: the numbers of png16 as zarr and xarray read them, sizes apart, shards that share no file."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import zarr

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.bulk.inputs.item import BulkItem
from e2e_deploy.runtime.bulk.outputs import zarr_groups
from e2e_deploy.runtime.bulk.outputs.encoded import EncodedPicture, Made
from e2e_deploy.runtime.bulk.outputs.layouts import LAYOUTS
from e2e_deploy.runtime.sources.source import SourceFrame
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT, SHARD = 14, 4
SIZES = {"24x32": 0, "40x30": 1}  # of the even and of the odd pictures


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A bulk run as Zarr, and one as png16, of depth and normals."""
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", COUNT)
    depth = write_plain_bundle(tmp_path / "depth")
    normals = write_plain_bundle(tmp_path / "normals", task="normals")
    for name in ("zarr", "png16"):
        e2e.bulk(pictures, [depth, normals], tmp_path / name, format=name, shard=SHARD)
    return tmp_path / "zarr" / "results.zarr", tmp_path / "png16"


def png_of(folder, name, output):
    stored = cv2.imread(str(folder / f"{name}_{output}.png"), cv2.IMREAD_UNCHANGED)
    return stored if stored.ndim == 2 else stored[..., ::-1]


def test_zarr_reads_the_codes_of_png16(made):
    store, reference = made
    root, seen = zarr.open_group(store, mode="r"), []
    assert sorted(root) == [f"shard-{number:06d}" for number in range(4)]
    for shard, group in root.groups():
        for size, parity in SIZES.items():
            inner = group[size]
            assert set(inner) == {"index", "path", "name", "depth", "normals"}
            for row, index in enumerate(inner["index"][:]):
                assert index % 2 == parity
                assert int(index) // SHARD == int(shard.removeprefix("shard-"))
                name = f"p{index:03d}"
                assert str(inner["name"][row]) == name
                assert str(inner["path"][row]).endswith(f"/in/{name}.png")
                for output in ("depth", "normals"):
                    expected = png_of(reference, name, output)
                    np.testing.assert_array_equal(inner[output][row], expected)
                    assert inner[output].shape[1:3] == tuple(map(int, size.split("x")))
                seen.append(int(index))
    assert sorted(seen) == [n for n in range(COUNT) if n not in DAMAGED]


def test_attributes_say_what_sidecars_say(made):
    store, reference = made
    for output in ("depth", "normals"):
        array = zarr.open_array(store / "shard-000000" / "24x32" / output, mode="r")
        told, known = dict(array.attrs), json.loads((reference / f"p000_{output}.json").read_text())
        bits = known["png16"]
        assert told["scale_factor"] == bits["scale"]
        assert told["add_offset"] == bits["offset"]
        assert told["_FillValue"] == bits["unknown"] == array.fill_value == 0
        for name in ("task", "kind", "meaning", "units", "metric", "range", "model"):
            assert told[name] == known[name]
        assert told.get("axes") == known.get("axes")
        assert array.chunks == (1, *array.shape[1:]), "a picture is read without its neighbours"
        assert array.shards == array.shape


def test_xarray_reads_numbers_and_none_where_there_is_none(made):
    xarray = pytest.importorskip("xarray")
    store, reference = made
    data = xarray.open_zarr(store, group="shard-000001/24x32", consolidated=False)
    assert data.depth.dims == ("picture", "y", "x")
    assert data.normals.dims == ("picture", "y", "x", "channel")
    assert set(data.coords) == {"index", "path", "name"}
    told = json.loads((reference / "p004_depth.json").read_text())["png16"]
    stored = png_of(reference, "p004", "depth")
    expected = np.where(stored == 0, np.nan, stored * told["scale"] + told["offset"])
    np.testing.assert_allclose(data.depth.sel(picture=0), expected, rtol=1e-6)
    assert data.index[0] == 4
    tree = xarray.open_datatree(store, engine="zarr", consolidated=False)
    count = sum(node.sizes["picture"] for node in tree.leaves)
    assert count == COUNT - len(DAMAGED)


def test_the_same_run_has_the_same_bytes(made, tmp_path):
    store, _ = made
    bundles = [tmp_path / "depth", tmp_path / "normals"]
    e2e.bulk(tmp_path / "in", bundles, tmp_path / "again", format="zarr", shard=SHARD)
    assert results_of(tmp_path / "again") == results_of(store.parent)


def test_of_a_shard_that_was_not_whole_no_group_is_seen(made, tmp_path, monkeypatch):
    """Its metadata is written last: what was killed before is none, and the rerun makes it whole."""
    store, _ = made
    files = zarr_groups.files

    def cut(shard, pictures):
        whole = files(shard, pictures)
        assert [n for n, _ in whole if n.count("/") == 2] == [whole[-1][0]]
        return whole if shard != 2 else whole[:-1]

    bundles, out = [tmp_path / "depth", tmp_path / "normals"], tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setitem(LAYOUTS, "zarr", replace(LAYOUTS["zarr"], files=cut))
        e2e.bulk(tmp_path / "in", bundles, out, format="zarr", shard=SHARD)
    root = zarr.open_group(out / "results.zarr", mode="r")
    assert "shard-000002" not in root
    assert "shard-000001" in root
    for segment in (out / "_bulk" / "ledger").iterdir():
        segment.unlink()
    e2e.bulk(tmp_path / "in", bundles, out, format="zarr", shard=SHARD)
    assert results_of(out) == results_of(store.parent)


def test_without_a_number_and_with_a_time(tmp_path):
    manifest = open_bundle(write_plain_bundle(tmp_path / "depth")).manifest
    values = np.array([[0.0, np.nan], [1.0, np.inf]], np.float32)
    pictures = []
    for index, time_s, stamp in ((7, None, None), (8, 0.25, 12), (9, 0.5, 2**63)):
        frame = SourceFrame(np.empty((2, 2, 0), np.uint8), index, time_s, "a", stamp_ns=stamp)
        codes = zarr_groups.encode(Made(manifest, manifest.kinds[0], frame, values, False))
        item = BulkItem(index, "in/a\udcff.png", "", "a\udcff", index)
        pictures.append(EncodedPicture(item, frame, {"depth": codes}))
    for name, data in [*zarr_groups.files(0, pictures), *zarr_groups.ROOT]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    group = zarr.open_group(tmp_path / "results.zarr", mode="r")["shard-000000/2x2"]
    np.testing.assert_array_equal(group["depth"][0], [[1, 0], [65535, 0]])
    np.testing.assert_array_equal(group["pts_s"][:], [np.nan, 0.25, 0.5])
    assert group["stamp_ns"][:].tolist() == [-1, 12, -1]
    assert str(group["name"][0]) == r"a\udcff"
