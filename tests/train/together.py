"""Several processes of one run on the CPUs, without a launcher; they start from one that has imported torch."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.train.imported"])


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


def _train(text, rank, number, port, sending):
    import torch

    from e2e_deploy.errors import E2EDeployError
    from e2e_deploy.train.config.reading import parse_config
    from e2e_deploy.train.training import train_model

    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": number, "RANK": rank}
    meeting["LOCAL_RANK"] = rank
    os.environ |= {key: str(value) for key, value in meeting.items() if number > 1}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    table = json.loads(text)
    with (Path(table["run"]["out"]).parent / f"said-{rank}.txt").open("w") as said:
        os.dup2(said.fileno(), 2)
        try:
            train_model(parse_config(table))
        except E2EDeployError as error:
            sending.send(str(error))
            raise SystemExit(1) from None
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
