"""Workers that die: real processes, whose variant or scene is made to end them; tiny pictures."""

import logging
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.rendering.worker import COMPILED, SCALAR, RenderJob, render_jobs

pytest.importorskip("mitsuba")

# A worker whose compiler aborts, as LLVM does, at the second scene.
ABORTS = f"""
import os, sys
from e2e_deploy.train.rendering import sample as render_sample
render, done = render_sample.render_sample, []
def at_first(job):
    if done and compiled:
        print("LLVM ERROR: Cannot select: 0x1f: f32 = fminimum 0x2f, 0x3f", file=sys.stderr, flush=True)
        os.abort()
    render(job)
    done.append(job)
compiled, sys.argv[1] = sys.argv[1] == {COMPILED!r}, {SCALAR!r}
render_sample.render_sample = at_first
render_sample.main()
"""

# A worker that one scene ends whatever the variant is.
DIES_OF = """
import os, signal
from e2e_deploy.train.rendering import sample as render_sample
render = render_sample.render_sample
def unless(job):
    job.stem == "000001" and os.kill(os.getpid(), signal.{how})
    render(job)
render_sample.render_sample = unless
render_sample.main()
"""


SEEDS = (8, 91, 113)  # small scenes


def jobs_in(folder):
    return [RenderJob(str(folder), f"{i:06d}", seed, (8, 8), 1) for i, seed in enumerate(SEEDS)]


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def children():
    """Processes that this one started, from whichever thread."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.fixture
def no_child_left():
    before = children()
    yield
    assert children() <= before


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_compiler_that_aborts_costs_a_sentence_and_no_scene(
    child_runs, tmp_path, caplog, workers
):
    assert len(list(render_jobs(jobs_in(tmp_path / "plain"), SCALAR, workers))) == 3
    assert not caplog.records
    child_runs(ABORTS)
    assert len(list(render_jobs(jobs_in(tmp_path / "aborted"), COMPILED, workers))) == 3
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "SIGABRT (LLVM ERROR: Cannot select: f32 = fminimum)" in warning
    assert "the rest are rendered with scalar_rgb" in warning
    assert files_of(tmp_path / "aborted") == files_of(tmp_path / "plain")


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize(
    ("how", "why"), [("SIGSEGV", "SIGSEGV"), ("SIGKILL", r"SIGKILL \(most likely out of memory\)")]
)
def test_a_scene_that_ends_every_renderer_is_named(child_runs, tmp_path, how, why):
    child_runs(DIES_OF.format(how=how))
    jobs = jobs_in(tmp_path)
    with pytest.raises(E2EDeployError, match=rf"{why}.* at .*rgb/000001\.png \(seed 91\)"):
        list(render_jobs(jobs, SCALAR, 1))
    assert [job.is_complete() for job in jobs] == [True, False, False]


@pytest.mark.usefixtures("no_child_left")
def test_no_worker_outlives_an_interruption(child_runs, tmp_path):
    child_runs("import time\ntime.sleep(600)")

    def press(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(render_jobs(jobs_in(tmp_path), SCALAR, 2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_child_left")
def test_a_file_that_cannot_be_written_is_said_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        E2EDeployError, match="depth/000000.png could not be written: .*file is not a folder"
    ):
        list(render_jobs(jobs_in(tmp_path / "file"), SCALAR, 1))
