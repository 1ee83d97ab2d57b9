"""Runs with live outputs: what the run tells of them, and one that goes away."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from rerun.chunk import RrdReader

import e2e_deploy as e2e
from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sources.pattern import PatternSource
from tests.live_inputs import until, viewer
from tests.plain_bundle import HW, write_plain_bundle

CAMERA = Intrinsics(40.0, 40.0, 16.0, 12.0)


@pytest.fixture
def root(tmp_path):
    return write_plain_bundle(tmp_path / "both", task="geometry")


def pattern(total=4):
    return PatternSource(*HW, fps=0, total=total)


def entities(path):
    return {chunk.entity_path for chunk in RrdReader(str(path)).stream()}


def test_several_at_once(root, tmp_path):
    seen = []
    outs = [tmp_path / "a.rrd", "foxglove:0", "foxglove:0?prefix=/second"]
    report = e2e.run(pattern(), root, out=outs, on_frame=lambda report: seen.append(report.view))
    assert [sink.written for sink in report.sinks] == [4, 4, 4]
    assert report.files == [tmp_path / "a.rrd"]
    first, second = seen[0].split(", ")  # before the first frame, so that one can look
    assert first.startswith("ws://127.0.0.1:")
    assert second.startswith("ws://127.0.0.1:")
    assert first != second


def test_the_camera_that_the_user_names(root, tmp_path):
    e2e.run(pattern(), root, out=tmp_path / "a.rrd", intrinsics=CAMERA)
    assert "/camera" in entities(tmp_path / "a.rrd")
    e2e.run(pattern(), root, out=tmp_path / "b.rrd")
    assert "/camera" not in entities(tmp_path / "b.rrd")


def test_metres_and_points(root, tmp_path):
    points = np.array([[u, v, 1.0 + u / 10] for u in range(4, 30, 3) for v in (5, 12, 20)])
    frame = next(iter(pattern())).rgb.astype(np.float64).mean(axis=2) / 255
    points[:, 2] = 1.0 + 5.0 * frame[points[:, 1].astype(int), points[:, 0].astype(int)]
    report = e2e.run(
        pattern(1), root, out=tmp_path / "a.rrd", metric_points=points, intrinsics=CAMERA
    )
    assert report.failed_steps == 0
    assert "/camera/depth" in entities(tmp_path / "a.rrd")
    assert "/camera/depth_affine" not in entities(tmp_path / "a.rrd")


def test_what_has_no_effect_is_refused(root, tmp_path):
    for out in (tmp_path / "a.rrd", "foxglove:0", "rerun:", "zenoh:"):
        with pytest.raises(UsageError, match="nothing that is written has colours"):
            e2e.run(pattern(), root, out=out, colormap="turbo")
        with pytest.raises(UsageError, match="`side_by_side` needs"):
            e2e.run(pattern(), root, out=out, side_by_side=True)


def test_a_viewer_that_goes_away_does_not_end_the_run(root, tmp_path):
    with viewer(tmp_path) as (port, _, process):

        def end(report):
            if report.frames == 2:
                process.kill()
                process.wait()

        outs = [f"rerun:{port}", tmp_path / "a.rrd"]
        report = e2e.run(pattern(30), root, out=outs, on_frame=end)
    lost, kept = report.sinks
    assert "is gone or takes nothing more" in lost.failure
    assert lost.written < 30
    assert (kept.written, kept.failure) == (30, "")
    assert not report.complete
    assert "/camera/image" in entities(tmp_path / "a.rrd")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_all_of_them(root, tmp_path):
    """Their libraries install no handler of their own, and none of their threads holds up the end."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from e2e_deploy.cli import main\nsys.argv[0] = 'e2e-deploy'\nsys.exit(main())"
    )
    outs = [str(tmp_path / "a.rrd"), "foxglove:0", "zenoh:?listen=tcp/127.0.0.1:0"]
    arguments = ["run", "test:", "--bundle", str(root), "--json"]
    for out in outs:
        arguments += ["--out", out]
    command = [sys.executable, "-c", program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            growing = tmp_path / "a.partial.rrd"
            until(lambda: growing.exists() and growing.stat().st_size > 10_000, 60.0)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    report = json.loads(stdout)
    assert [sink["failure"] for sink in report["sinks"]] == ["", "", ""]
    assert "/camera/image" in entities(tmp_path / "a.rrd")
    assert "Traceback" not in stderr
