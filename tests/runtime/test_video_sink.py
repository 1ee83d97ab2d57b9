import json
import signal
import subprocess
import sys

import av
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.sources import SourceFrame
from e2e_deploy.runtime.video_sink import NumbersVideoSink, VideoSink
from tests.plain_bundle import NOTE, write_plain_bundle
from tests.sink_inputs import painter, result_for, source_frame


def video_of(path, manifest, rng, sizes, *, side_by_side=False, fps=12.5, task="depth"):
    sink = VideoSink(path, painter(manifest, True), fps=fps, side_by_side=side_by_side)
    for index, hw in enumerate(sizes):
        sink.write(source_frame(rng, hw, index=index), result_for(task, rng, hw), {})
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
    sink.write(frame, np.tile(np.linspace(0, 1, 96, dtype=np.float32), (64, 1)), {})
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
    sink = VideoSink(tmp_path / "a.mp4", painter(manifests["depth"]), fps=None, side_by_side=False)
    for _ in range(2):
        sink.write(source_frame(rng, (32, 48)), result_for("depth", rng, (32, 48)), {})
    with pytest.raises(UsageError, match="gives 40x40, but .* began with 48x32"):
        sink.write(source_frame(rng, (40, 40)), result_for("depth", rng, (40, 40)), {})
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
                    {},
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
    with pytest.raises(E2EDeployError, match="could not be written: it is a folder"):
        video_of(tmp_path / "folder.mp4", manifests["depth"], rng, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_video_that_changes_its_size_is_fitted(tmp_path, manifests, rng):
    sink = video_of(tmp_path / "a.mp4", manifests["depth"], rng, [(32, 48), (64, 64), (33, 49)])
    sink.close()
    assert [f.shape for f in decoded(tmp_path / "a.mp4")[0]] == [(32, 48, 3)] * 3


def test_the_index_is_there_when_it_is_closed(tmp_path, manifests, rng):
    video_of(tmp_path / "a.mp4", manifests["depth"], rng, [(32, 32)] * 30).close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 30
        assert container.duration == pytest.approx(30 / 12.5 * av.time_base, rel=0.01)


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from e2e_deploy.bundle import open_bundle
from e2e_deploy.runtime.sinks import Painter
from e2e_deploy.runtime.sources import SourceFrame
from e2e_deploy.runtime.video_sink import NumbersVideoSink, VideoSink
bundle, out = map(Path, sys.argv[1:])
manifest = open_bundle(bundle).manifest
sink = (
    NumbersVideoSink(out, manifest, fps=10) if out.suffix == ".mkv"
    else VideoSink(out, Painter(manifest, "turbo", is_video=True), fps=10, side_by_side=True)
)
rng = np.random.default_rng(0)
for index in range(100_000):
    rgb = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    sink.write(SourceFrame(rgb, index, None, "a"), rng.random((48, 64), dtype=np.float32), {})
    print(index, flush=True)
"""


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_after_a_kill_the_partial_file_plays(tmp_path, name):
    bundle = write_plain_bundle(tmp_path / "bundle")
    out = tmp_path / name
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(bundle), str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        while int(process.stdout.readline()) < 100:
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    with av.open(str(out.with_suffix(f".partial{out.suffix}"))) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert count >= 40  # all but the last seconds: what the encoder holds and the open fragment


@pytest.mark.parametrize("value_range", [None, [0.0, 65.535]])
def test_sixteen_bits_of_a_video_come_back(tmp_path, manifests, rng, value_range):
    path = tmp_path / "new/depth.mkv"
    sink = NumbersVideoSink(path, manifests["depth"], fps=25)
    facts = {} if value_range is None else {"range": value_range, "metric": True}
    top = (value_range or [0, 1])[1]
    results = [result_for("depth", rng, (61, 83)) * top for _ in range(4)]
    for index, result in enumerate(results):
        sink.write(source_frame(rng, (61, 83), index=index), result, facts)
    assert sink.close() == [path, path.with_name("depth.mkv.json")]
    told = json.loads(path.with_name("depth.mkv.json").read_text())
    assert told["metric"] is (value_range is not None)
    with av.open(str(path)) as container:
        note = json.loads(container.metadata["E2E_DEPLOY"])
        assert container.metadata["COMMENT"] == NOTE
        stored = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert note["ffv1"] == told["ffv1"]
    for values, result in zip(stored, results, strict=True):
        assert values.dtype == np.uint16
        got = values * told["ffv1"]["scale"] + told["ffv1"]["offset"]
        np.testing.assert_allclose(got, result, atol=0.51 * top / 65535)
    assert sorted(p.name for p in path.parent.iterdir()) == ["depth.mkv", "depth.mkv.json"]


def test_numbers_are_not_resized_and_normals_do_not_fit(tmp_path, manifests, rng):
    sink = NumbersVideoSink(tmp_path / "a.mkv", manifests["depth"], fps=None)
    sink.write(source_frame(rng), result_for("depth", rng), {})
    with pytest.raises(UsageError, match="numbers are not resized"):
        sink.write(source_frame(rng, (40, 40)), result_for("depth", rng, (40, 40)), {})
    assert len(sink.close()) == 2
    with pytest.raises(UsageError, match="holds depth"):
        NumbersVideoSink(tmp_path / "b.mkv", manifests["normals"], fps=None)
