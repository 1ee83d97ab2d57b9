import json

import av
import cv2
import numpy as np
import pytest

from e2e_deploy.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.sinks import (
    Painter,
    PictureSink,
    VideoSink,
    WindowSink,
    to_uint16,
)
from e2e_deploy.runtime.sources import SourceFrame
from tests.plain_bundle import NOTE, write_plain_bundle


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "depth": open_bundle(write_plain_bundle(folder / "depth")).manifest,
        "normals": open_bundle(write_plain_bundle(folder / "normals", task="normals")).manifest,
        "trained": open_bundle(write_plain_bundle(folder / "trained", note="")).manifest,
    }


def source_frame(rng, hw=(60, 80), name="a", index=0):
    return SourceFrame(rng.integers(0, 256, (*hw, 3), dtype=np.uint8), index, None, name)


def result_for(task, rng, hw=(60, 80)):
    if task != "normals":
        return rng.random(hw, dtype=np.float32)
    vectors = rng.standard_normal((*hw, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def painter(manifest, is_video=False):
    return Painter(manifest, "spectral", is_video=is_video)


def picture_sink(folder, manifest, formats, number=False):
    return PictureSink(folder, manifest, formats, painter(manifest), number=number)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_png16_and_its_sidecar_give_the_values_back(tmp_path, manifests, rng, task):
    result = result_for(task, rng)
    sink = picture_sink(tmp_path / "new", manifests[task], ("png16",))
    sink.write(source_frame(rng), result)
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


def test_png16_saturates():
    values = np.array([[-0.5, 0, 1, 1.5, np.nan, np.inf]], np.float32)
    stored, scale, offset = to_uint16(values, "depth")
    assert stored.tolist() == [[0, 0, 65535, 65535, 0, 65535]]
    assert (scale * 65535, offset) == (1, 0)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_npy_is_exact(tmp_path, manifests, rng, task):
    result = result_for(task, rng)
    sink = picture_sink(tmp_path, manifests[task], ("npy",))
    sink.write(source_frame(rng), result)
    array, side = sink.close()
    loaded = np.load(array)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, result)
    assert json.loads(side.read_text())["npy"]["file"] == array.name


def test_colour_alone_has_no_sidecar_and_is_the_painters_rgb(tmp_path, manifests, rng):
    result = result_for("depth", rng)
    sink = picture_sink(tmp_path, manifests["trained"], ("color",))
    sink.write(source_frame(rng), result)
    (path,) = sink.close()
    got = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(got, painter(manifests["trained"])(result))


def test_untrained_weights_are_said_in_the_pixels(manifests, rng):
    result = np.full((60, 200), 0.5, np.float32)
    marked, plain = painter(manifests["depth"])(result), painter(manifests["trained"])(result)
    changed = (marked != plain).any(axis=2)
    assert changed[:30].sum() == 0
    assert changed[30:].sum() > 100


def test_every_output_at_once_leaves_no_other_file(tmp_path, manifests, rng):
    sink = picture_sink(tmp_path, manifests["depth"], ("png16", "npy", "color"))
    for name in ("a", "photo.v1", "photo.v2"):  # a dot in a name is not a suffix
        sink.write(source_frame(rng, name=name), result_for("depth", rng))
    written = sink.close()
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert len(written) == len(set(written)) == 12
    assert (tmp_path / "photo.v1_depth.png").exists()


def test_frames_of_a_video_are_numbered(tmp_path, manifests, rng):
    sink = picture_sink(tmp_path, manifests["depth"], ("npy",), number=True)
    for index in (0, 1):
        sink.write(source_frame(rng, index=index), result_for("depth", rng))
    assert sink.close()[-2].name == "a_000001_depth.npy"


def test_a_full_disk_leaves_no_half_picture(tmp_path, manifests, rng, full_disk):
    sink = picture_sink(tmp_path, manifests["depth"], ("npy",))
    with full_disk(5000), pytest.raises(E2EDeployError, match="could not be written: File too"):
        sink.write(source_frame(rng), result_for("depth", rng))
    assert sink.close() == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path, manifests, rng):
    (tmp_path / "file").write_text("x")
    sink = picture_sink(tmp_path / "file", manifests["depth"], ("png16",))
    with pytest.raises(E2EDeployError, match="could not be written"):
        sink.write(source_frame(rng), result_for("depth", rng))


def video_of(path, manifest, rng, sizes, *, side_by_side=False, fps=12.5, task="depth"):
    sink = VideoSink(path, painter(manifest, True), fps=fps, side_by_side=side_by_side)
    for index, hw in enumerate(sizes):
        sink.write(source_frame(rng, hw, index=index), result_for(task, rng, hw))
    return sink


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate), dict(container.metadata)


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize(("hw", "even"), [((60, 80), (60, 80)), ((61, 83), (60, 82))])
def test_an_mp4_plays_back(tmp_path, manifests, rng, task, hw, even):
    path = tmp_path / "new/out.mp4"
    sink = video_of(path, manifests[task], rng, [hw] * 7, task=task)
    assert not path.exists()
    assert sink.close() == [path]
    assert sink.close() == []
    frames, rate, metadata = decoded(path)
    assert [f.shape for f in frames] == [(*even, 3)] * 7
    assert rate == 12.5
    assert metadata["comment"] == NOTE
    assert list(path.parent.iterdir()) == [path]


def test_side_by_side_shows_the_frame_on_the_left(tmp_path, manifests, rng):
    path = tmp_path / "out.mp4"
    sink = VideoSink(path, painter(manifests["trained"], True), fps=None, side_by_side=True)
    frame = SourceFrame(np.full((64, 96, 3), (200, 30, 30), np.uint8), 0, None, "a")
    sink.write(frame, np.tile(np.linspace(0, 1, 96, dtype=np.float32), (64, 1)))
    sink.close()
    (picture,), rate, metadata = decoded(path)
    assert picture.shape == (64, 192, 3)
    assert np.abs(picture[:, 8:88].astype(int) - (200, 30, 30)).max() < 12
    assert picture[:, 96:].std() > 20
    assert rate == 30
    assert "comment" not in metadata


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 23.976, 7.5, None])
def test_frame_rates(tmp_path, manifests, rng, fps):
    video_of(tmp_path / "a.mp4", manifests["depth"], rng, [(32, 32)] * 3, fps=fps).close()
    assert decoded(tmp_path / "a.mp4")[1] == pytest.approx(fps or 30, rel=1e-4)


def test_a_video_without_frames_is_no_file(tmp_path, manifests, rng):
    sink = video_of(tmp_path / "a.mp4", manifests["depth"], rng, [])
    assert sink.close() == []
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_several_sizes_do_not_fit_one_video(tmp_path, manifests, rng):
    sink = video_of(tmp_path / "a.mp4", manifests["depth"], rng, [(32, 48)] * 2)
    with pytest.raises(UsageError, match="gives 40x40, but .* began with 48x32"):
        sink.write(source_frame(rng, (40, 40)), result_for("depth", rng, (40, 40)))
    assert sink.close() == [tmp_path / "a.mp4"]
    assert len(decoded(tmp_path / "a.mp4")[0]) == 2


def test_a_full_disk_leaves_no_half_video_and_the_old_one(tmp_path, manifests, rng, full_disk):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with full_disk(20_000):
        sink = VideoSink(path, painter(manifests["depth"], True), fps=25, side_by_side=True)
        with pytest.raises(E2EDeployError, match="a.mp4 could not be written: File too large"):
            for index in range(60):
                sink.write(
                    source_frame(rng, (240, 320), index=index),
                    result_for("depth", rng, (240, 320)),
                )
            sink.close()
        assert sink.close() == []
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_where_no_file_can_be(tmp_path, manifests, rng):
    (tmp_path / "file").write_text("x")
    with pytest.raises(E2EDeployError, match="could not be written"):
        video_of(tmp_path / "file/a.mp4", manifests["depth"], rng, [])
    (tmp_path / "folder.mp4").mkdir()
    sink = video_of(tmp_path / "folder.mp4", manifests["depth"], rng, [(32, 32)])
    with pytest.raises(E2EDeployError, match="could not be written"):
        sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_window_needs_a_display(manifests, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UnavailableError, match="needs a display and there is none here"):
        WindowSink(painter(manifests["depth"]), wait=True)


def test_a_window_shows_bgr_and_q_ends(manifests, monkeypatch, rng):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("x") if len(shown) < 2 else ord("q"))
    sink = WindowSink(painter(manifests["trained"]), wait=False)
    frame = source_frame(rng)
    sink.write(frame, result_for("depth", rng))
    assert shown[0].shape == (60, 160, 3)
    np.testing.assert_array_equal(shown[0][:, :80], frame.rgb[..., ::-1])
    with pytest.raises(KeyboardInterrupt):
        sink.write(frame, result_for("depth", rng))
