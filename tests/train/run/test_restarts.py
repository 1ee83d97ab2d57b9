"""Processes that torchrun starts again, and signals that reach a run through it: nothing of the run is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.run.failures import failures_said
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.training import train_model
from tests.train.run.test_loop import SCRIPT, launch
from tests.train.run.test_processes import SHARD, assert_same_steps, table_of
from tests.train.small_runs import logged, one_thread, small_config
from tests.train.together import train_restarted

ELASTIC = pytest.mark.skipif("ELASTIC" not in os.environ, reason="minutes; ELASTIC=1 runs it")
PATIENT = pytest.mark.timeout(1800)
WHOLE_AND_SHARDED = pytest.mark.parametrize("speed", [{}, SHARD], ids=["whole", "sharded"])
STANDALONE = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

assert one_thread  # a fixture


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_goes_on(tmp_path):
    train_model(parse_config(table_of(tmp_path, "one", steps=3)))
    train_restarted(table_of(tmp_path, "again", steps=3), 2, die_after=3)
    said = [(tmp_path / "again" / f"said-{rank}-0.txt").read_text() for rank in (0, 1)]
    assert "continuing" not in said[0]
    assert "continuing after step 2" in (tmp_path / "again" / "said-0-1.txt").read_text()
    assert_same_steps(tmp_path, "one", "again")


@ELASTIC
@PATIENT
@pytest.mark.slow
@WHOLE_AND_SHARDED
def test_torchrun_starts_a_killed_process_again(tmp_path, speed):
    train_model(parse_config(table_of(tmp_path, "one")))
    table = table_of(tmp_path, "torchrun", speed=speed)
    launcher = (*STANDALONE, "--max-restarts", "1")
    done = launch(table, tmp_path / "torchrun", "die_once", 3, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "torchrun" / "died").read_text() == "1"  # the process that does not write
    assert "continuing after step 2" in done.stderr
    assert "another process of this run is gone" in done.stderr
    assert_same_steps(tmp_path, "one", "torchrun")


def started(table, root, *launcher):
    file = root / "table.json"
    file.write_text(json.dumps(table))
    with (root / f"said-{len(list(root.iterdir()))}.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, *launcher, str(SCRIPT), str(file)],
            stdout=said,
            stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )


def wait_for_steps(out, number, seconds=600):
    end = time.monotonic() + seconds
    while not (out / "log.jsonl").exists() or len(logged(out)) < number:
        assert time.monotonic() < end
        time.sleep(0.1)


@ELASTIC
@PATIENT
@pytest.mark.slow
@pytest.mark.parametrize(("machines", "speed"), [(2, {}), (3, SHARD)], ids=["whole", "sharded"])
def test_a_run_goes_on_with_the_machines_that_are_left(tmp_path, machines, speed):
    """A machine is an agent here; the last is lost with its process, and the others go on without it."""
    steps = 12
    train_model(parse_config(table_of(tmp_path, "one", steps=steps)))
    root = tmp_path / "many"
    table = table_of(tmp_path, "many", steps=steps, speed=speed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    nodes = ("--nnodes", f"{machines - 1}:{machines}", "--nproc-per-node", "1")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "many")
    conf = "last_call_timeout=5,keep_alive_interval=1"
    agents = []
    try:
        for is_host in (1, *[0] * (machines - 1)):
            given = ("--rdzv-conf", f"is_host={is_host},{conf}", "--max-restarts", "3")
            launcher = ("-m", "torch.distributed.run", *nodes, *meeting, *given)
            agents.append(started(table, root, *launcher))
            time.sleep(1)
        wait_for_steps(root / "out", 5)
        lost = psutil.Process(agents[-1].pid)
        for process in (lost, *lost.children(recursive=True)):
            process.kill()
        assert [agent.wait(900) for agent in agents[:-1]] == [0] * (machines - 1)
    finally:
        for agent in agents:
            if agent.poll() is None:
                agent.terminate()
                agent.wait(60)
    said = "".join(file.read_text() for file in root.glob("said-*.txt"))
    before, after = {2: ("2 x 2", "4 x 1"), 3: ("4 for 3", "2 x 2")}[machines]
    assert f"= 1 x {before} processes" in said
    assert f"= 1 x {after} processes" in said
    assert_same_steps(tmp_path, "one", "many", rel=1e-3)  # after many steps with a large rate


@ELASTIC
@PATIENT
@pytest.mark.slow
@WHOLE_AND_SHARDED
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_torchrun_saves_first(tmp_path, speed, number):
    """Ctrl-C, and SIGTERM of a scheduler; readers are processes, too."""
    run = {"workers": 1, "checkpoint_every": 10_000}
    table = table_of(tmp_path, "run", steps=10_000, speed=speed, run=run)
    agent = started(table, tmp_path / "run", *STANDALONE)
    try:
        wait_for_steps(tmp_path / "run" / "out", 2)
        agent.send_signal(number)
        assert agent.wait(300) != 0
    finally:
        if agent.poll() is None:
            agent.kill()
    (folder,) = checkpoint_folders(tmp_path / "run" / "out" / "checkpoints")
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == len(logged(tmp_path / "run" / "out")) >= 2
    said = "".join(file.read_text() for file in (tmp_path / "run").glob("said-*.txt"))
    assert f"interrupted; step {state['step']} is saved" in said
    assert "reads data died" not in said


def test_a_process_that_is_gone_is_a_sentence(tmp_path):
    told = (
        "[/__w/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40373"
    )
    with (
        pytest.raises(
            E2EDeployError, match=r"another process .* \(Connection closed by peer \[127"
        ),
        failures_said(small_config(tmp_path)),
    ):
        raise RuntimeError(told)
