"""The choice of Mitsuba's variant: what a probe found is remembered, and nothing about it ends this process."""

import json
import subprocess
import sys

import pytest

from e2e_deploy.train.rendering import variant as render_variant
from e2e_deploy.train.rendering.worker import COMPILED, SCALAR

pytest.importorskip("mitsuba")

FACTS = {"mitsuba": "3", "drjit": "1", "llvm": "15.0.6", "cpu": "one", "features": "avx512f"}
ABORT = "import os, sys; print('LLVM ERROR: Cannot select: 0x1', file=sys.stderr, flush=True); os.abort()"
KILLED = "import os; os.kill(os.getpid(), 9)"
RENDERS = (
    "import sys; from e2e_deploy.train.rendering import sample as render_sample; sys.argv[1] = 'scalar_rgb'; "
    "render_sample.main()"
)
NEVER = "raise SystemExit('asked again')"


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "e2e-deploy" / "renderer"


def test_what_works_is_remembered_for_this_machine_and_library(child_runs, records):
    child_runs(RENDERS)
    assert render_variant._compiling(FACTS) == ""
    child_runs(NEVER)
    assert render_variant._compiling(FACTS) == ""
    for fact in FACTS:
        assert "asked again" in render_variant._compiling(FACTS | {fact: "another"})
    assert len(list(records.iterdir())) == 1 + len(FACTS)
    assert records.stat().st_mode & 0o777 == 0o700


def test_an_abort_is_remembered_with_its_cause(child_runs):
    child_runs(ABORT)
    fault = render_variant._compiling(FACTS)
    assert fault == "Mitsuba with LLVM 15.0.6 ends with SIGABRT (LLVM ERROR: Cannot select:)"
    child_runs(NEVER)
    assert render_variant._compiling(FACTS) == fault


def test_a_lack_of_memory_is_not_remembered(child_runs, records):
    child_runs(KILLED)
    assert "out of memory" in render_variant._compiling(FACTS)
    assert not records.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"fault": 3}', b'{"fault": "' + b"x" * 2**25])
def test_a_damaged_record_is_made_again(child_runs, records, content):
    child_runs(ABORT)
    render_variant._compiling(FACTS)
    (record,) = records.iterdir()
    record.write_bytes(content)
    assert "SIGABRT" in render_variant._compiling(FACTS)
    assert "SIGABRT" in json.loads(record.read_text())["fault"]


def test_without_a_folder_to_remember_in_it_is_probed_each_time(child_runs, monkeypatch):
    child_runs(ABORT)
    for nowhere in ("/proc/none", "/dev/null"):
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        assert "SIGABRT" in render_variant._compiling(FACTS)


@pytest.mark.slow
@pytest.mark.parametrize("llvm", ["", "/nonexistent/libLLVM.so"])
def test_the_variant_of_this_machine_renders(tmp_path, monkeypatch, llvm):
    """With the LLVM that is here, or none: the first scene comes out."""
    if llvm:
        monkeypatch.setenv("DRJIT_LIBLLVM_PATH", llvm)
    code = (
        "from e2e_deploy.train.rendering.variant import choose_variant\n"
        "from e2e_deploy.train.rendering.view import *\n"
        "from e2e_deploy.train.rendering.scenes.scenes import build_scene\n"
        "scene = load_scene(build_scene(1))\n"
        "view = render_view(scene, pick_camera(scene), (24, 32), samples=2)\n"
        "print(choose_variant(), view.rgb.std() > 5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    variant, sees = done.stdout.split()
    assert variant in ((SCALAR,) if llvm else (SCALAR, COMPILED))
    assert sees == "True"
    assert ("about six times slower" in done.stderr) == (variant == SCALAR)
