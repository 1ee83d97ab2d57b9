"""Recordings of Rerun, read back with its own reader; and a viewer, Rerun's own program, that comes and goes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from rerun.chunk import RrdReader

from e2e_deploy.colormap import colour_normals
from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.live.rerun_sink import RerunFileSink, RerunViewerSink
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from tests.live_inputs import CAMERA, HW, STAMP_NS, STEP_NS, geometry, opening_for, shot, viewer


def rows_of(path):
    """Of each entity its rows, oldest first: values of timelines (in ns) and components, and whether it is static."""
    found = {}
    for chunk in RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        for i in range(batch.num_rows):
            row = {"static": chunk.is_static}
            for field, column in zip(batch.schema, batch.columns, strict=True):
                if field.name.endswith(":buffer"):
                    row[field.name] = column[i].values[0].values.to_numpy()
                elif str(field.type) in ("duration[ns]", "timestamp[ns]"):
                    row[field.name] = column[i].value
                else:
                    row[field.name] = column[i].as_py()
            found.setdefault(chunk.entity_path, []).append(row)
    return found


def pixels(row, kind):
    """A picture as an array, by what the recording says of it."""
    [about] = row[f"{kind}:format"]
    assert about["pixel_format"] is None
    dtype = {6: np.uint8, 34: np.float32}[about["channel_datatype"]]  # rerun.ChannelDatatype
    channels = {None: 1, 1: 1, 2: 3}[about["color_model"]]  # rerun.ColorModel
    shape = (about["height"], about["width"], channels)
    return row[f"{kind}:buffer"].view(dtype).reshape(shape).squeeze()


def record(path, frames, results, **opening):
    sink = RerunFileSink(str(path), opening_for(path.parent, **opening))
    for frame, (values, facts) in zip(frames, results, strict=True):
        sink.write(frame, values, facts)
    return sink.close()


def test_metres_under_a_pinhole(tmp_path, rng):
    frames = [shot(rng, index) for index in range(3)]
    results = [geometry(rng, metric=True) for _ in frames]
    path = tmp_path / "a.rrd"
    assert record(path, frames, results) == [path]
    rows = rows_of(path)
    assert set(rows) == {
        *("/__properties", "/", "/metadata"),
        *("/camera", "/camera/image", "/camera/depth", "/camera/normals"),
    }
    for kind, name in (("Image", "image"), ("DepthImage", "depth"), ("Image", "normals")):
        of_entity = rows[f"/camera/{name}"]
        assert [row["frame"] for row in of_entity] == [0, 1, 2]
        stamps = [STAMP_NS + index * STEP_NS for index in range(3)]
        assert [row["capture_time"] for row in of_entity] == stamps
        assert "log_time" not in of_entity[0]
        for row, frame, (values, _) in zip(of_entity, frames, results, strict=True):
            shown = {
                "image": frame.rgb,
                "depth": values["depth"],
                "normals": colour_normals(values["normals"]),
            }
            np.testing.assert_array_equal(pixels(row, kind), shown[name])  # NaN and both Inf too
    assert [row["DepthImage:meter"] for row in rows["/camera/depth"]] == [[1.0]] * 3


def test_the_camera_is_said_once_and_again_when_it_changes(tmp_path, rng):
    other = CameraInfo.of(Intrinsics(50.0, 50.0, 15.0, 11.0), HW)
    frames = [shot(rng, index, camera=[CAMERA, CAMERA, other][index]) for index in range(3)]
    record(tmp_path / "a.rrd", frames, [geometry(rng) for _ in frames])
    pinholes = rows_of(tmp_path / "a.rrd")["/camera"]
    assert [row["frame"] for row in pinholes] == [0, 2]
    for row, camera in zip(pinholes, (CAMERA, other), strict=True):
        [columns] = row["Pinhole:image_from_camera"]  # column by column
        assert columns == np.reshape(camera.k, (3, 3)).T.ravel().tolist()
        assert row["Pinhole:resolution"] == [[32.0, 24.0]]
        assert row["Pinhole:camera_xyz"] == [[3, 2, 5]]  # right, down, forward
    [root] = rows_of(tmp_path / "a.rrd")["/"]
    assert (root["ViewCoordinates:xyz"], root["static"]) == ([[3, 2, 5]], True)


def test_what_has_no_scale_is_never_a_depth_image(tmp_path, rng):
    results, facts = geometry(rng)
    record(tmp_path / "a.rrd", [shot(rng, camera=None)], [(results, facts)])
    rows = rows_of(tmp_path / "a.rrd")
    assert "/camera/depth" not in rows
    assert "/camera" not in rows
    [row] = rows["/camera/depth_affine"]
    assert not any(name.startswith("DepthImage") for name in row)
    np.testing.assert_array_equal(pixels(row, "Image"), results["depth"])
    told = json.loads(rows["/metadata"][0]["TextDocument:text"][0])
    assert told["results"][0]["metric"] is False


@pytest.mark.parametrize(
    ("task", "output", "channels"),
    [("matting", "matte", 1), ("appearance", "material", 3), ("lighting", "shading", 3)],
)
def test_other_results_are_pictures(tmp_path, rng, task, output, channels):
    opening = opening_for(tmp_path, task)
    shape = HW if channels == 1 else (*HW, 3)
    names = [kind.output for kind in opening.manifest.kinds]
    several = {name: rng.random(shape, dtype=np.float32) for name in names}
    given = several if len(several) > 1 else several[output]
    facts = {name: {} for name in several} if len(several) > 1 else {}
    record(tmp_path / "a.rrd", [shot(rng)], [(given, facts)], task=task)
    shown = pixels(rows_of(tmp_path / "a.rrd")[f"/camera/{output}"][0], "Image")
    if shown.dtype == np.uint8:
        np.testing.assert_array_equal(shown, np.rint(several[output] * 255))
    else:
        np.testing.assert_array_equal(shown, several[output])


def test_a_video_has_its_own_time(tmp_path, rng):
    frames = [SourceFrame(shot(rng).rgb, i, None, "a", shown_s=i * 0.04) for i in range(3)]
    record(tmp_path / "a.rrd", frames, [geometry(rng) for _ in frames])
    rows = rows_of(tmp_path / "a.rrd")["/camera/image"]
    assert [row["video_time"] for row in rows] == [0, 40_000_000, 80_000_000]
    assert "capture_time" not in rows[0]


def test_a_camera_has_the_time_of_day(tmp_path, rng):
    source = BaseSource("camera:0")
    source.is_live = True
    before = time.time_ns()
    frames = [SourceFrame(shot(rng).rgb, i, None, "a", shown_s=i * 0.04) for i in range(2)]
    record(tmp_path / "a.rrd", frames, [geometry(rng) for _ in frames], source=source)
    rows = rows_of(tmp_path / "a.rrd")["/camera/image"]
    assert (
        before - 10**9 < rows[0]["capture_time"] <= rows[1]["capture_time"] < time.time_ns() + 10**9
    )


class TestTheFile:
    def test_it_is_in_its_place_only_when_it_is_finished(self, tmp_path, rng):
        path = tmp_path / "a.rrd"
        path.write_bytes(b"before")
        sink = RerunFileSink(str(path), opening_for(tmp_path))
        sink.write(shot(rng), *geometry(rng))
        assert path.read_bytes() == b"before"
        assert sink.close() == [path]
        assert [file.name for file in tmp_path.glob("*.rrd")] == ["a.rrd"]
        assert rows_of(path)["/camera/image"]

    def test_without_a_frame_there_is_none(self, tmp_path):
        assert RerunFileSink(str(tmp_path / "a.rrd"), opening_for(tmp_path)).close() == []
        assert not list(tmp_path.glob("*.rrd"))

    def test_no_place_for_it(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(E2EDeployError, match="could not be written: .*file is not a folder"):
            RerunFileSink(str(tmp_path / "file" / "a.rrd"), opening_for(tmp_path))

    def test_a_full_disk(self, tmp_path):
        """Rerun's own writer would wait for ever when it is closed."""
        program = f"""
import resource, signal
import numpy as np
from pathlib import Path
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.live.rerun_sink import RerunFileSink
from tests.live_inputs import opening_for, geometry, shot
rng = np.random.default_rng(0)
folder = Path({str(tmp_path)!r})
opening = opening_for(folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sink = RerunFileSink(str(folder / "a.rrd"), opening)
try:
    for index in range(50):
        sink.write(shot(rng, index), *geometry(rng))
except E2EDeployError as error:
    print(index, error)
assert sink.close() == []
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
        )
        index, _, said = done.stdout.partition(" ")
        assert 0 < int(index) < 49
        assert "a.rrd could not be written: File too large; what" in said
        assert done.stderr == ""
        assert not (tmp_path / "a.rrd").exists()


class TestTheViewer:
    def test_it_is_given_everything(self, tmp_path, rng):
        results = [geometry(rng, metric=True) for _ in range(3)]
        with viewer(tmp_path) as (port, seen, process):
            sink = RerunViewerSink(f"rerun:{port}", opening_for(tmp_path))
            assert sink.name == f"Rerun viewer 127.0.0.1:{port}"
            for index, (values, facts) in enumerate(results):
                sink.write(shot(rng, index), values, facts)
            assert sink.close() == []
            time.sleep(0.3)  # it has it, and writes it when it has time
            process.send_signal(signal.SIGINT)
            process.wait(20)
        with warnings.catch_warnings():  # a file that grows has no index yet
            warnings.simplefilter("ignore")
            rows = rows_of(seen)["/camera/depth"]
        for row, (values, _) in zip(rows, results, strict=True):
            np.testing.assert_array_equal(pixels(row, "DepthImage"), values["depth"])

    def test_one_that_goes_away_is_told(self, tmp_path, rng):
        with viewer(tmp_path) as (port, _, process):
            sink = RerunViewerSink(f"rerun+http://127.0.0.1:{port}/proxy", opening_for(tmp_path))
            sink.write(shot(rng), *geometry(rng))
            process.kill()
            process.wait()
            with pytest.raises(
                E2EDeployError, match=f"viewer at 127.0.0.1:{port} is gone or takes nothing more"
            ):
                for index in range(1, 20):
                    sink.write(shot(rng, index), *geometry(rng))
            assert sink.close() == []

    def test_one_that_takes_nothing_holds_up_nobody(self, tmp_path, rng, monkeypatch):
        monkeypatch.setattr(RerunViewerSink, "patience_s", 0.5)
        large = replace(shot(rng, camera=None), rgb=np.zeros((2000, 2000, 3), np.uint8))
        large.rgb[:] = rng.integers(0, 256, large.rgb.shape, np.uint8)
        with viewer(tmp_path) as (port, _, process):
            sink = RerunViewerSink(f"rerun:{port}", opening_for(tmp_path))
            sink.write(shot(rng), *geometry(rng))
            process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(E2EDeployError, match="takes nothing more: Flush timed out"):
                    for _ in range(20):
                        sink.write(large, *geometry(rng))
                assert sink.close() == []
            finally:
                process.send_signal(signal.SIGCONT)

    def test_nobody_is_there(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"no Rerun viewer answers at 127.0.0.1:{port}"):
            RerunViewerSink(f"rerun:{port}", opening_for(tmp_path))


def test_opened_and_closed_often(tmp_path, rng):
    opening = opening_for(tmp_path)
    open_files = []
    for _ in range(50):
        sink = RerunFileSink(str(tmp_path / "a.rrd"), opening)
        sink.write(shot(rng), *geometry(rng))
        sink.close()
        del sink
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert open_files[-1] <= open_files[10] + 8
    assert len(list(tmp_path.glob("*.rrd"))) == 1


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[robotics\]'"):
        RerunFileSink(str(tmp_path / "a.rrd"), opening_for(tmp_path))
    assert not list(tmp_path.glob("*.rrd"))
