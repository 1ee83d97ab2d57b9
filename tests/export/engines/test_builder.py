import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.export.engines.builder import Request, build_apart, build_here
from e2e_deploy.export.engines.tensorrt import BuildOptions
from e2e_deploy.nvidia.trt_messages import BuildError
from tests.export.builds import PLAN
from tests.small_graphs import write_conv

SHAPES = {"x": ((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))}


def request(folder, **options):
    return Request(
        graph=str(folder / "m.onnx"),
        plan=str(folder / "plan"),
        name="mine",
        options=BuildOptions(**options),
    )


@pytest.mark.rtx
class TestApart:
    def test_it_is_what_this_process_would_build(self, rtx, tmp_path):
        write_conv(tmp_path / "m.onnx", shape=[1, 3, "height", "width"])
        wanted = request(tmp_path, target="sm89", level=1, workspace_bytes=1 << 28, shapes=SHAPES)
        here = build_here(rtx, wanted, None)
        plan = (tmp_path / "plan").read_bytes()
        assert plan.startswith(PLAN)
        (tmp_path / "plan").unlink()
        assert build_apart("tensorrt-rtx", wanted, None) == here
        assert (tmp_path / "plan").read_bytes() == plan

    @pytest.mark.parametrize(
        ("last", "options", "error", "message"),
        [
            ("Unique", {}, BuildError, "TensorRT-RTX 1.* does not support the operator Unique"),
            ("Relu", {"target": "sm90"}, UsageError, "unknown target 'sm90'"),
        ],
    )
    def test_errors_are_the_same(self, rtx, tmp_path, last, options, error, message):
        write_conv(tmp_path / "m.onnx", last=last)
        with pytest.raises(error, match=message) as caught:
            build_apart("tensorrt-rtx", request(tmp_path, **options), None)
        with pytest.raises(error) as here:
            build_here(rtx, request(tmp_path, **options), None)
        assert str(caught.value) == str(here.value)

    def test_a_full_disk_is_an_oserror(self, rtx, tmp_path):
        write_conv(tmp_path / "m.onnx")
        full = Request(
            graph=str(tmp_path / "m.onnx"), plan="/dev/full", name="", options=BuildOptions()
        )
        with pytest.raises(OSError, match="No space left"):
            build_apart("tensorrt-rtx", full, None)

    def test_its_log_is_ours(self, rtx, tmp_path, caplog):
        write_conv(tmp_path / "m.onnx")
        with caplog.at_level(logging.DEBUG, logger="e2e_deploy.tensorrt"):
            build_apart("tensorrt-rtx", request(tmp_path), None)
        assert any(record.levelno < logging.WARNING for record in caplog.records)
        caplog.clear()
        with caplog.at_level(logging.ERROR, logger="e2e_deploy.tensorrt"):
            build_apart("tensorrt-rtx", request(tmp_path), None)
        assert not caplog.records

    def test_modules_of_the_folder_one_is_in_are_left_alone(self, rtx, tmp_path, monkeypatch):
        write_conv(tmp_path / "m.onnx")
        (tmp_path / "json.py").write_text("raise SystemExit('imported')")
        monkeypatch.chdir(tmp_path)
        build_apart("tensorrt-rtx", request(tmp_path), None)

    def test_it_ends_when_its_parent_is_gone(self, rtx, tmp_path):
        """A builder that nobody waits for would hold gigabytes for a minute."""
        write_conv(tmp_path / "m.onnx")
        script = (
            "import os, sys; from pathlib import Path; from e2e_deploy.export.engines.builder import *\n"
            f"r = Request(graph={str(tmp_path / 'm.onnx')!r}, plan={str(tmp_path / 'plan')!r}, name='', "
            "options=BuildOptions())\n"
            "def die(*_):\n"
            "    kids = Path(f'/proc/self/task/{os.getpid()}/children').read_text()\n"
            "    print(kids, flush=True); os.kill(os.getpid(), 9)\n"
            "build_apart('tensorrt-rtx', r, die)"
        )
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert done.returncode == -signal.SIGKILL
        pid = int(done.stdout)
        for _ in range(200):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the builder lives on")
        assert not (tmp_path / "plan").exists()


class TestCrash:
    @pytest.mark.parametrize(
        ("script", "message"),
        [
            (
                "import os, sys; print('CHECK(desc) failed', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
                r"TensorRT-RTX's builder crashed with SIGSEGV: CHECK\(desc\) failed; .*`engine=\"onnx\"`",
            ),
            ("import os; os.kill(os.getpid(), 9)", "crashed with SIGKILL; .*ran out of memory"),
            ("import ctypes; ctypes.string_at(0)", "crashed with SIGSEGV; "),
            ("raise ValueError('no')", "crashed with exit code 1: .*ValueError: no; "),
        ],
    )
    def test_it_is_an_error_that_an_export_survives(self, child_runs, tmp_path, script, message):
        child_runs(script)
        with pytest.raises(BuildError, match=message):
            build_apart("tensorrt-rtx", request(tmp_path), None)

    def test_an_error_of_another_kind(self, child_runs, tmp_path):
        child_runs('print(\'{"error": "Strange", "text": "this"}\')')
        with pytest.raises(E2EDeployError, match="this"):
            build_apart("tensorrt-rtx", request(tmp_path), None)

    def test_what_progress_raises_ends_the_process(self, child_runs, tmp_path):
        child_runs(
            'import os, time; print(\'{"progress": ["%d", 0, 1]}\' % os.getpid(), flush=True); time.sleep(60)'
        )
        seen = []

        def enough(pid, step, steps):
            seen.append(int(pid))
            raise ZeroDivisionError

        start = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            build_apart("tensorrt-rtx", request(tmp_path), enough)
        assert time.monotonic() - start < 30  # it was ended: by itself it sleeps for a minute
        with pytest.raises(ProcessLookupError):
            os.kill(seen[0], 0)
