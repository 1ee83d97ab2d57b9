"""The process that compiles, and what becomes of an export when it goes wrong; nothing is compiled here."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from e2e_deploy.errors import CheckpointError, E2EDeployError
from e2e_deploy.export.engines.inductor_process import (
    Recipe,
    _explained,
    _in_words,
    compile_apart,
)
from e2e_deploy.nvidia.trt_messages import BuildError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The system's folder for temporary files, of the test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def recipe(tmp_path):
    return Recipe(
        checkpoint=str(tmp_path / "none"),
        family="marigold",
        task="depth",
        settings={},
        precision="fp32",
        specialised=True,
        resolution=0,
        pad=0,
        batch=1,
        frame_hw=(24, 32),
        device="cpu",
        cpu_target="x86-64-v3",
        autotune=False,
        metadata={},
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import os, sys; print('double free', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
            'AOTInductor crashed with SIGSEGV: double free; .*`engine="onnx"`',
        ),
        ("import os; os.kill(os.getpid(), 9)", "crashed with SIGKILL; .*ran out of memory"),
        ("raise ValueError('no')", "crashed with exit code 1: .*ValueError: no; "),
    ],
)
def test_a_crash_is_one_sentence(child_runs, recipe, tmp_path, temporary, script, message):
    child_runs(script)
    with pytest.raises(BuildError, match=message) as caught:
        compile_apart(recipe, tmp_path / "plan", None)
    assert "\n" not in str(caught.value)
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "plan").exists()


def test_what_it_compiled_is_moved(child_runs, recipe, tmp_path, temporary):
    child_runs(
        "import json, pathlib, sys; told = json.loads(sys.stdin.readline())['recipe']\n"
        "file = pathlib.Path(sys.argv[1]) / 'frame.pt2'; file.write_bytes(told['cpu_target'].encode())\n"
        "print(json.dumps({'progress': ['compile', 4, 4]}), flush=True)\n"
        "print(json.dumps({'built': str(file)}), flush=True)"
    )
    seen = []
    compile_apart(recipe, tmp_path / "plan", lambda *at: seen.append(at))
    assert (tmp_path / "plan").read_bytes() == b"x86-64-v3"
    assert seen == [("compile", 4, 4)]
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
def test_ctrl_c_ends_its_compilers_too(child_runs, recipe, tmp_path, temporary):
    child_runs(
        "import subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])\n"
        'print(\'{"progress": ["%d", 0, 1]}\' % other.pid, flush=True); time.sleep(120)'
    )
    seen = []

    def press(pid, step, steps):
        seen.append(int(pid))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_apart(recipe, tmp_path / "plan", press)
    for _ in range(600):
        state = Path(f"/proc/{seen[0]}/stat")
        # An orphan that nobody reaps stays as a zombie.
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the compiler lives on")
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
def test_it_ends_with_whoever_asked(tmp_path):
    """A parent that was killed closes the pipe, and nobody else removes the folder."""
    folder = tmp_path / "compiling"
    folder.mkdir()
    script = (
        "import sys, threading, time\n"
        "from e2e_deploy.export.engines.inductor_process import _end_with_parent\n"
        "threading.Thread(target=_end_with_parent, args=(sys.argv[1],), daemon=True).start()\n"
        "print(flush=True); time.sleep(120)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    assert not folder.exists()


def test_its_errors_are_raised_here(recipe, tmp_path, temporary):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        compile_apart(recipe, tmp_path / "plan", None)
    assert list(temporary.iterdir()) == []


def test_an_error_of_another_kind(child_runs, recipe, tmp_path):
    child_runs('print(\'{"error": "Strange", "text": "this"}\')')
    with pytest.raises(E2EDeployError, match="this"):
        compile_apart(recipe, tmp_path / "plan", None)


def test_of_hundreds_of_lines_the_wrong_ones_are_said():
    said = "CppCompileError: C++ compile error\n\nCommand:\ng++ a.cpp\n\nOutput:\na.cpp:1: fatal error: omp.h: no"
    assert _in_words(RuntimeError(said)) == (
        "CppCompileError: C++ compile error; a.cpp:1: fatal error: omp.h: no"
    )
    assert _in_words(RuntimeError("")) == "RuntimeError"
    assert len(_in_words(RuntimeError("error " * 1000))) <= 500


def test_only_a_folder_that_takes_no_files_is_called_one(temporary):
    full = _explained(OSError(errno.ENOSPC, "No space left on device"))
    assert str(full).startswith(f"AOTInductor cannot write into {temporary}: No space left on")
    assert not isinstance(full, BuildError)
    other = _explained(OSError("CUDA_HOME environment variable is not set."))  # as torch says it
    assert isinstance(other, BuildError)
    assert str(other).startswith("AOTInductor cannot compile the graph: CUDA_HOME environment")
