import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.sinks.video_sink import NumbersVideoSink, VideoSink
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.plain_bundle import NOTE, write_plain_bundle
from tests.sink_inputs import painter, result_for, source_frame
from tests.videos import write_video


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


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_full_disk_keeps_the_recording_so_far_and_the_old_one(
    tmp_path, manifests, rng, full_disk, name
):
    path, partial = tmp_path / name, tmp_path / name.replace(".", ".partial.")
    path.write_text("old")
    with full_disk(60_000):
        sink = sink_for(path, manifests["depth"])
        with pytest.raises(E2EDeployError) as caught:
            for index in range(200):
                sink.write(
                    source_frame(rng, (120, 160), index=index),
                    result_for("depth", rng, (120, 160)),
                    {},
                )
            sink.close()
        assert sink.close() == []
    assert str(caught.value) == (
        f"{path} could not be written: File too large; what was recorded until then is in {partial}"
    )
    assert path.read_text() == "old"
    with av.open(str(partial)) as container:
        count = 0
        with suppress(av.error.InvalidDataError):  # the last one may be half
            for _ in container.decode(video=0):
                count += 1
    assert count >= 1


def sink_for(path, manifest, **options):
    options = {"fps": 10} | options
    if path.suffix == ".mkv":
        return NumbersVideoSink(path, manifest, **options)
    return VideoSink(path, painter(manifest, True), side_by_side=True, **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_partial_recording_that_is_there_is_kept(tmp_path, manifests, rng, name):
    partial = tmp_path / name.replace(".", ".partial.")
    partial.write_text("an hour of work")
    sink = sink_for(tmp_path / name, manifests["depth"])
    sink.write(source_frame(rng), result_for("depth", rng), {})
    assert sink.close()[0] == tmp_path / name
    assert partial.read_text() == "an hour of work"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_two_recordings_to_one_place_are_two_files(tmp_path, manifests, rng, name):
    sinks = [sink_for(tmp_path / name, manifests["depth"]) for _ in range(2)]
    for count, sink in enumerate(sinks, start=2):
        for index in range(count):
            sink.write(source_frame(rng, index=index), result_for("depth", rng), {})
    files = [sink.close() for sink in sinks]
    assert [names[0].name for names in files] == [name, name.replace(".", "-2.")]
    assert [len(decoded(names[0])[0]) for names in files] == [2, 3]
    assert not list(tmp_path.glob("*.partial*"))
    for names in files[: len(files) if name == "a.mkv" else 0]:
        assert [str(path) for path in names] == [
            str(names[0]) + end for end in ("", ".json", ".times.txt")
        ]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_recording_does_not_replace_its_source(tmp_path, manifests, rng, name):
    (tmp_path / name).write_text("the film")
    (tmp_path / "other").hardlink_to(tmp_path / name)
    for source in (tmp_path / name, tmp_path / "other"):
        sink = sink_for(tmp_path / name, manifests["depth"])
        for _ in range(2):
            with pytest.raises(UsageError, match="is the source itself: record to another name"):
                frame = replace(source_frame(rng), source=str(source))
                sink.write(frame, result_for("depth", rng), {})
        assert sink.close() == []
    assert (tmp_path / name).read_text() == "the film"
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "other"]


TIMES_S = [0.0, 0.1, 0.2, 0.2001, 0.4, 0.9, 1.4, 5.9]


@pytest.mark.parametrize("start_s", [0.0, 0.5])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_each_frame_keeps_its_own_time(tmp_path, manifests, rng, name, start_s):
    """Uneven, finer than a millisecond, with a gap before the first frame and a long last one."""
    sink = sink_for(tmp_path / name, manifests["depth"])
    for index, shown_s in enumerate(TIMES_S):
        frame = replace(
            source_frame(rng, index=index),
            pts_s=shown_s + 7,
            shown_s=shown_s + start_s,
            duration_s=2.5,
        )
        sink.write(frame, result_for("depth", rng), {})
    files = sink.close()
    with av.open(str(files[0])) as container:
        got = [frame.time for frame in container.decode(video=0)]
        end_s = container.duration / av.time_base
    wanted = np.array(TIMES_S) + start_s
    np.testing.assert_allclose(got, wanted, atol=1e-5 if name == "a.mp4" else 1.1e-3)
    assert np.diff(got).min() > 0
    gap_s = start_s if name == "a.mkv" else 0  # where a header's duration counts from
    assert end_s == pytest.approx(5.9 + 2.5 + gap_s, abs=2e-3)
    if name == "a.mkv":
        lines = (tmp_path / "a.mkv.times.txt").read_text().splitlines()
        assert lines[0] == "# timestamp format v2"
        np.testing.assert_allclose(np.array(lines[1:], float), 1000 * (np.array(TIMES_S) + 7))
        told = json.loads((tmp_path / "a.mkv.json").read_text())
        assert told["times"]["file"] == "a.mkv.times.txt"


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv"])
@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("a.mp4", {"ticks": [0, 40, 90, 700, 2900, 3000], "options": {"bf": "0"}}),
        ("a.mkv", {"ticks": [500, 540, 590, 1200, 3400, 3500]}),
        ("a.ts", {"rate": Fraction(24000, 1001)}),
        ("a.h264", {"rate": 12, "form": "h264"}),
        ("a.avi", {"rate": 60}),
    ],
)
def test_a_clip_lasts_as_long_as_its_source(tmp_path, manifests, rng, name, source, how):
    greys = [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(6)]
    write_video(tmp_path / source, greys, **how)
    film = VideoSource(tmp_path / source)
    sink = sink_for(tmp_path / name, manifests["depth"])
    frames = list(film)
    for frame in frames:
        sink.write(frame, result_for("depth", rng, (48, 64)), {})
    sink.close()
    with av.open(str(tmp_path / name)) as container:
        got = list(container.decode(video=0))
        start_s = container.start_time / av.time_base
        lasts_s = container.duration / av.time_base - (start_s if name == "o.mkv" else 0)
    shown = [frame.shown_s for frame in frames]
    np.testing.assert_allclose([frame.time for frame in got], shown, atol=1e-3)
    wanted_s = frames[-1].pts_s + frames[-1].duration_s - frames[0].pts_s
    assert lasts_s == pytest.approx(wanted_s, abs=2e-3)
    assert wanted_s == pytest.approx(durations_s(tmp_path / source, wanted_s), abs=1 / 10)


def durations_s(path, otherwise):
    """What FFmpeg says of a file's duration, less the start; raw streams have none."""
    with av.open(str(path)) as container:
        if container.duration is None:
            return otherwise
        start = container.start_time if path.suffix == ".mkv" else 0
        return (container.duration - start) / av.time_base


def test_live_recordings_begin_with_their_first_frame(tmp_path, manifests, rng):
    """It was captured while the engine was loaded; what is written comes later, and later again after a loss."""
    sink = sink_for(tmp_path / "a.mkv", manifests["depth"], live=True)
    for index, shown_s in enumerate([4.0, 4.1, 9.0]):
        frame = replace(source_frame(rng, index=index), pts_s=100.0 - index, shown_s=shown_s)
        sink.write(frame, result_for("depth", rng), {})
    sink.close()
    with av.open(str(tmp_path / "a.mkv")) as container:
        got = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(got, [0, 0.1, 5], atol=1e-3)
    lines = (tmp_path / "a.mkv.times.txt").read_text().splitlines()[1:]
    np.testing.assert_allclose(np.array(lines, float), [0, 100, 5000], atol=1e-3)


@pytest.mark.parametrize("hw", [(64, 96), (720, 1280)])
def test_colours_are_those_of_the_tags(tmp_path, manifests, hw):
    path = tmp_path / "a.mp4"
    sink = VideoSink(path, painter(manifests["trained"], True), fps=None, side_by_side=True)
    frame = SourceFrame(np.full((*hw, 3), (200, 30, 30), np.uint8), 0, None, "a")
    sink.write(frame, np.full(hw, 0.5, np.float32), {})
    sink.close()
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    assert (picture.colorspace, picture.color_range) == (1, 1)
    assert (picture.color_primaries, picture.color_trc) == (1, 1)
    seen = picture.to_ndarray(format="rgb24", src_colorspace="ITU709")[hw[0] // 2, hw[1] // 2]
    assert np.abs(seen.astype(int) - (200, 30, 30)).max() <= 4


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_note_that_no_container_takes_is_cleaned(tmp_path, manifests, rng, name):
    """A lone surrogate ended the process in FFmpeg's muxer."""
    manifest = manifests["depth"]
    note = "tr\ud800ained\x00 on\x1b[31m\nit"
    manifest = replace(manifest, checkpoint=replace(manifest.checkpoint, note=note))
    sink = sink_for(tmp_path / name, manifest)
    sink.write(source_frame(rng), result_for("depth", rng), {})
    sink.close()
    metadata = decoded(tmp_path / name)[2]
    comment = metadata.get("comment", metadata.get("COMMENT"))
    assert comment == "tr\ufffdained\ufffd on\ufffd[31m it"


def test_a_video_where_no_file_can_be(tmp_path, manifests, rng):
    (tmp_path / "file").write_text("x")
    with pytest.raises(E2EDeployError, match="could not be written"):
        video_of(tmp_path / "file/a.mp4", manifests["depth"], rng, [])
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(E2EDeployError, match="could not be written: it is a folder"):
        video_of(tmp_path / "folder.mp4", manifests["depth"], rng, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_first_frame_that_cannot_be_encoded_leaves_nothing(tmp_path, manifests, rng):
    """H.264 ends at 16384 pixels; a message of what was recorded until then would lie."""
    with pytest.raises(E2EDeployError, match=r"a.mp4 could not be written: [^;]*$"):
        video_of(tmp_path / "a.mp4", manifests["depth"], rng, [(16, 20000)])
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_without_the_codec_is_told_before_a_run(tmp_path, manifests, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"h264"})
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "ffv1")):
        with pytest.raises(UnavailableError, match=f"{name} needs {codec}, and this PyAV"):
            sink_for(tmp_path / name, manifests["depth"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_that_are_hours_apart(tmp_path, manifests, rng, name):
    """Their average rate is as good as none."""
    sink = sink_for(tmp_path / name, manifests["depth"], fps=1 / 10800)
    for index in range(3):
        frame = replace(source_frame(rng, index=index), shown_s=10800.0 * index)
        sink.write(frame, result_for("depth", rng), {})
    sink.close()
    with av.open(str(tmp_path / name)) as container:
        assert [frame.time for frame in container.decode(video=0)] == [0, 10800, 21600]


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
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.sinks.video_sink import NumbersVideoSink, VideoSink
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
    files = [path, *(path.with_name(f"depth.mkv.{end}") for end in ("json", "times.txt"))]
    assert sink.close() == files
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
    assert sorted(path.parent.iterdir()) == files


def test_numbers_are_not_resized_and_normals_do_not_fit(tmp_path, manifests, rng):
    sink = NumbersVideoSink(tmp_path / "a.mkv", manifests["depth"], fps=None)
    sink.write(source_frame(rng), result_for("depth", rng), {})
    with pytest.raises(UsageError, match="numbers are not resized"):
        sink.write(source_frame(rng, (40, 40)), result_for("depth", rng, (40, 40)), {})
    assert len(sink.close()) == 3
    with pytest.raises(UsageError, match="holds depth"):
        NumbersVideoSink(tmp_path / "b.mkv", manifests["normals"], fps=None)
