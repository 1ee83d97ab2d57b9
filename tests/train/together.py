"""Several processes of one run on the CPUs, without a launcher; they start from one that has imported torch."""

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.train.imported"])

TORCHRUNS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that its agent handles from then on."""


def train_together(table, number, *, timeout=240):
    """Train ``table`` in ``number`` processes; returns what they died of, one line a process that did."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiving, sending = SERVER.Pipe(duplex=False)
    workers = [
        SERVER.Process(target=_train, args=(json.dumps(table), rank, number, port, sending))
        for rank in range(number)
    ]
    for worker in workers:
        worker.start()
    sending.close()
    for worker in workers:
        worker.join(timeout)
        if worker.is_alive():
            worker.kill()
    told = []
    try:
        while receiving.poll():
            told.append(receiving.recv())
    except EOFError:
        pass
    died = [worker.exitcode for worker in workers if worker.exitcode != 0]
    assert len(died) <= len(told), (died, told)
    return told


def train_restarted(table, number, *, die_after, restarts=1):
    """Train ``table`` by torchrun's agent, which starts all processes again when number 1 is killed, once.

    Needs the main thread, as torchrun does.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    root = Path(table["run"]["out"]).parent
    handlers = {handled: signal.getsignal(handled) for handled in TORCHRUNS}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=root.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(root / "logs")),
    )
    try:
        elastic_launch(config, _live)(json.dumps(table), die_after)
    finally:
        for handled, handler in handlers.items():
            signal.signal(handled, handler)


def _live(text, die_after):
    from e2e_deploy.train.run.loop import Reporter

    rank, life = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    tell = Reporter.step

    def telling(self, report):
        tell(self, report)
        if (rank, life, report.step) == ("1", "0", die_after):
            os.kill(os.getpid(), signal.SIGKILL)

    Reporter.step = telling
    _train_here(json.loads(text), f"said-{rank}-{life}.txt")


def _train(text, rank, number, port, sending):
    from e2e_deploy.errors import E2EDeployError

    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": number, "RANK": rank}
    meeting["LOCAL_RANK"] = rank
    os.environ |= {key: str(value) for key, value in meeting.items() if number > 1}
    try:
        _train_here(json.loads(text), f"said-{rank}.txt")
    except E2EDeployError as error:
        sending.send(str(error))
        raise SystemExit(1) from None


def _train_here(table, said):
    import torch

    from e2e_deploy.train.config.reading import parse_config
    from e2e_deploy.train.training import train_model

    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    with (Path(table["run"]["out"]).parent / said).open("w") as file:
        os.dup2(file.fileno(), 2)
        try:
            train_model(parse_config(table))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
