import json

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.picture_sink import PictureSink
from tests.plain_bundle import NOTE
from tests.sink_inputs import painter, result_for, source_frame


def picture_sink(folder, manifest, formats, number=False):
    return PictureSink(folder, manifest, formats, painter(manifest), number=number)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_png16_and_its_sidecar_give_the_values_back(tmp_path, manifests, rng, task):
    result = result_for(task, rng)
    sink = picture_sink(tmp_path / "new", manifests[task], ("png16",))
    sink.write(source_frame(rng), result, {})
    written = sink.close()
    assert [p.name for p in written] == [f"a_{task}.png", f"a_{task}.json"]
    side = json.loads(written[1].read_text())
    stored = cv2.imread(str(written[0]), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    if task == "normals":
        stored = stored[..., ::-1]
        assert side["png16"]["channels"] == "R, G, B = x, y, z"
    values = stored * side["png16"]["scale"] + side["png16"]["offset"]
    # Rounding to one of 65536 steps of the range: half a step, and float32's own.
    low, high = side["range"]
    np.testing.assert_allclose(values, result, atol=0.51 * (high - low) / 65535)
    assert side["task"] == task
    assert side["units"].startswith("none")
    assert side["metric"] is False
    assert side["size"] == [60, 80]
    assert side["model"]["note"] == NOTE
    assert side["png16"]["file"] == written[0].name


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_npy_is_exact(tmp_path, manifests, rng, task):
    result = result_for(task, rng)
    sink = picture_sink(tmp_path, manifests[task], ("npy",))
    sink.write(source_frame(rng), result, {})
    array, side = sink.close()
    loaded = np.load(array)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, result)
    assert json.loads(side.read_text())["npy"]["file"] == array.name


def test_colour_alone_has_no_sidecar_and_is_the_painters_rgb(tmp_path, manifests, rng):
    result = result_for("depth", rng)
    sink = picture_sink(tmp_path, manifests["trained"], ("color",))
    sink.write(source_frame(rng), result, {})
    (path,) = sink.close()
    got = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(got, painter(manifests["trained"])(result, {}))


def test_every_output_at_once_leaves_no_other_file(tmp_path, manifests, rng):
    sink = picture_sink(tmp_path, manifests["depth"], ("png16", "npy", "color"))
    for name in ("a", "photo.v1", "photo.v2"):  # a dot in a name is not a suffix
        sink.write(source_frame(rng, name=name), result_for("depth", rng), {})
    written = sink.close()
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert len(written) == len(set(written)) == 12
    assert (tmp_path / "photo.v1_depth.png").exists()


def test_frames_of_a_video_are_numbered(tmp_path, manifests, rng):
    sink = picture_sink(tmp_path, manifests["depth"], ("npy",), number=True)
    for index in (0, 1):
        sink.write(source_frame(rng, index=index), result_for("depth", rng), {})
    assert sink.close()[-2].name == "a_000001_depth.npy"


def test_a_name_that_leaves_no_room_for_numbers_is_cut(tmp_path, manifests, rng):
    sink = picture_sink(tmp_path, manifests["depth"], ("npy", "color"), number=True)
    for index in (0, 1):
        frame = source_frame(rng, index=index, name="\u00fc" * 125)
        sink.write(frame, result_for("depth", rng), {})
    stems = {path.name.partition("_depth")[0] for path in sink.close()}
    assert stems == {"\u00fc" * 110 + "_000000", "\u00fc" * 110 + "_000001"}


def test_a_full_disk_leaves_no_half_picture(tmp_path, manifests, rng, full_disk):
    sink = picture_sink(tmp_path, manifests["depth"], ("npy",))
    with full_disk(5000), pytest.raises(E2EDeployError, match="could not be written: File too"):
        sink.write(source_frame(rng), result_for("depth", rng), {})
    assert sink.close() == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path, manifests, rng):
    (tmp_path / "file").write_text("x")
    sink = picture_sink(tmp_path / "file", manifests["depth"], ("png16",))
    with pytest.raises(E2EDeployError, match="could not be written"):
        sink.write(source_frame(rng), result_for("depth", rng), {})


def test_the_sidecar_says_what_steps_did_and_sixteen_bits_hold_their_range(
    tmp_path, manifests, rng
):
    result = (rng.random((60, 80), dtype=np.float32) * 1.4 - 0.2).astype(np.float32)
    sink = picture_sink(tmp_path, manifests["depth"], ("png16",))
    facts = {"range": [-0.5, 1.5], "steady": {"scale": 1.4, "shift": -0.2, "cut": False}}
    sink.write(source_frame(rng), result, facts)
    written = sink.close()
    side = json.loads(written[1].read_text())
    assert side["steady"]["scale"] == 1.4
    assert side["metric"] is False
    stored = cv2.imread(str(written[0]), cv2.IMREAD_UNCHANGED)
    values = stored * side["png16"]["scale"] + side["png16"]["offset"]
    np.testing.assert_allclose(values, result, atol=0.51 * 2 / 65535)


def test_npz_is_exact(tmp_path, manifests, rng):
    result = result_for("normals", rng)
    sink = picture_sink(tmp_path, manifests["normals"], ("npz",))
    sink.write(source_frame(rng), result, {})
    file, side = sink.close()
    told = json.loads(side.read_text())["npz"]
    with np.load(file) as stored:
        np.testing.assert_array_equal(stored[told["key"]], result)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_exr_is_exact_for_another_reader(tmp_path, manifests, rng, task):
    mitsuba = pytest.importorskip("mitsuba", reason="mitsuba is not installed")
    mitsuba.set_variant("scalar_rgb")
    result = result_for(task, rng)
    result[0, 0] = np.nan
    result[1, 1] = -3.5
    sink = picture_sink(tmp_path, manifests[task], ("exr",))
    sink.write(source_frame(rng), result, {})
    file, side = sink.close()
    read = np.array(mitsuba.Bitmap(str(file)), dtype=np.float32)
    np.testing.assert_array_equal(read.reshape(result.shape), result)
    assert json.loads(side.read_text())["exr"]["dtype"] == "float32"


CAMERA = Intrinsics(50.0, 60.0, 40.0, 30.0)


def ply_sink(folder, manifest, intrinsics=CAMERA):
    return PictureSink(
        folder, manifest, ("ply",), painter(manifest), number=False, intrinsics=intrinsics
    )


def test_a_point_cloud_projects_back_to_its_pixels(tmp_path, manifests, rng):
    depth_m = (1 + 5 * result_for("depth", rng)).astype(np.float32)
    depth_m[:10] = np.nan
    frame = source_frame(rng)
    sink = ply_sink(tmp_path, manifests["depth"])
    sink.write(frame, depth_m, {"metric": True, "units": "metres"})
    file, side = sink.close()
    header, _, data = file.read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    assert names == ["x", "y", "z", "red", "green", "blue"]
    assert f"element vertex {50 * 80}\n".encode() in header
    points = np.frombuffer(data, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    x, y, z = points["xyz"].T
    u, v = x / z * 50 + 40, y / z * 60 + 30
    rows, columns = np.rint(v).astype(int), np.rint(u).astype(int)
    np.testing.assert_allclose(u, columns, atol=1e-3)
    np.testing.assert_allclose(depth_m[rows, columns], z, rtol=1e-6)
    np.testing.assert_array_equal(points["rgb"], frame.rgb[rows, columns])
    assert json.loads(side.read_text())["ply"]["points"] == 4000


def test_a_point_cloud_of_depth_without_metres_is_refused(tmp_path, manifests, rng):
    for camera, facts in ((CAMERA, {}), (None, {"metric": True})):
        sink = ply_sink(tmp_path, manifests["depth"], camera)
        with pytest.raises(UsageError, match="needs the camera's intrinsics and metric depth"):
            sink.write(source_frame(rng), result_for("depth", rng), facts)
    assert list(tmp_path.iterdir()) == []


def test_unknown_is_the_same_in_every_format(tmp_path, manifests, rng):
    depth_m = (1 + 5 * result_for("depth", rng)).astype(np.float32)
    depth_m[:30] = np.nan
    formats = ("png16", "npy", "npz", "color", "ply")
    sink = PictureSink(
        tmp_path, manifests["trained"], formats, painter(manifests["trained"]), number=False,
        intrinsics=CAMERA,
    )  # fmt: skip
    sink.write(source_frame(rng), depth_m, {"metric": True, "range": [0.001, 65.535]})
    png, npy, npz, color, _, sidecar = sink.close()
    told = json.loads(sidecar.read_text())
    stored = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    assert ((stored == told["png16"]["unknown"]) == np.isnan(depth_m)).all()
    np.testing.assert_array_equal(np.load(npy), depth_m)
    np.testing.assert_array_equal(np.load(npz)["depth"], depth_m)
    grey = (cv2.imread(str(color)) == 128).all(axis=2)
    np.testing.assert_array_equal(grey, np.isnan(depth_m))
    assert told["ply"]["points"] == 30 * 80


def test_a_folder_of_live_results_takes_no_more_and_more_memory(
    tmp_path, manifests, rng, monkeypatch
):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.picture_sink.MAX_LISTED", 10)
    sink = picture_sink(tmp_path, manifests["depth"], ("npy",), number=True)
    result = result_for("depth", rng, (4, 4))
    for index in range(20):
        sink.write(source_frame(rng, (4, 4), index=index), result, {})
    assert [p.name for p in sink.close()][-1] == "a_000004_depth.json"
    assert len(list(tmp_path.iterdir())) == 40


def test_one_file_with_its_sidecar(tmp_path, manifests, rng):
    sink = PictureSink(
        tmp_path, manifests["depth"], ("npy",), painter(manifests["depth"]), number=False,
        file="my depth.npy",
    )  # fmt: skip
    result = result_for("depth", rng)
    sink.write(source_frame(rng), result, {})
    file, sidecar = sink.close()
    assert (file.name, sidecar.name) == ("my depth.npy", "my depth.npy.json")
    np.testing.assert_array_equal(np.load(file), result)
    assert json.loads(sidecar.read_text())["npy"]["file"] == file.name
