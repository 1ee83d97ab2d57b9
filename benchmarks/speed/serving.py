"""`e2e-deploy serve` under many clients on loopback: latency, refusals, and what grows, with bad clients among them.

The server is a process of its own. Each client sends the same frame again and again as bytes and compares the answer;
one that is refused with 429 tries again after a moment. At the highest load others send wrong requests, half of one, or
go.

    python -m benchmarks.speed.serving [--seconds 20] [--clients 1,4,16,64] [--queue 32] [--soak 120] [--bundle DIR]
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e
from benchmarks.report import write_result
from e2e_deploy.runtime.timing import summarise

RETRY_S = 0.05
BAD_EVERY_S = 0.05
SAMPLE_S = 1.0


@dataclass
class Load:
    """What clients of one load saw."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    """Answers with other numbers than the engine's own."""
    lost: int = 0
    """Good requests without an answer."""
    unreasoned: int = 0
    """Refusals without a reason."""


def request_of(frame: npt.NDArray[np.uint8]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request for ``frame`` as bytes."""
    parameters = {"binary_data_size": frame.nbytes}
    tensor = {"name": "frame", "datatype": "UINT8", "shape": list(frame.shape)}
    told = {
        "inputs": [tensor | {"parameters": parameters}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(told).encode()
    return head + frame.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def good_client(
    url: str,
    request: tuple[bytes, dict[str, str]],
    wanted: bytes,
    stop: threading.Event,
    load: Load,
) -> None:
    """Ask until ``stop``; a connection that ends is opened again, and counts as a lost request."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(str(split.hostname), split.port, timeout=60)
    while not stop.is_set():
        start = time.perf_counter()
        try:
            connection.request("POST", f"{split.path}/infer", *request)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            load.lost += 1
            continue
        load.statuses[str(answer.status)] += 1
        if answer.status == 200:
            load.seconds.append(time.perf_counter() - start)
            load.wrong += not body.endswith(wanted)
        else:
            told = json.loads(body).get("error", "") if body else ""
            load.unreasoned += not (told and answer.getheader("Retry-After"))
            stop.wait(RETRY_S)
    connection.close()


def bad_clients(url: str, request: tuple[bytes, dict[str, str]], stop: threading.Event) -> int:
    """Wrong requests, half ones, resets and slow ones until ``stop``; how many there were."""
    split, rng, count = urlsplit(url), random.Random(0), 0
    body, headers = request
    told = {"Host": "127.0.0.1", "Content-Length": str(len(body))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    whole = f"POST {split.path}/infer HTTP/1.1\r\n{lines}\r\n".encode() + body
    kinds = [
        whole.replace(b"UINT8", b"INT64"),
        whole.replace(b'"shape": [1', b'"shape": [9'),
        whole[: len(whole) // 2],
        whole[:100],
        b"\0" * 1000,
        whole.replace(str(len(body)).encode(), b"9" * 12, 1),
    ]
    slow: list[socket.socket] = []
    while not stop.wait(BAD_EVERY_S):
        count += 1
        with contextlib.suppress(OSError):
            client = socket.create_connection((str(split.hostname), split.port or 80), 5)
            client.sendall(rng.choice(kinds))
            if rng.random() < 0.1 and len(slow) < 8:
                slow.append(client)  # says no more, until the server ends it
                continue
            if rng.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                client.settimeout(0.2)
                client.recv(1000)
            client.close()
    for client in slow:
        client.close()
    return count


def footprint(pid: int) -> dict[str, int]:
    """Resident MiB, threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "mib": int(values["VmRSS"].split()[0]) // 1024,
        "threads": int(values["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def under_load(
    url: str,
    pid: int,
    count: int,
    seconds: float,
    request: tuple[bytes, dict[str, str]],
    wanted: bytes,
    *,
    with_bad: bool = False,
) -> dict[str, Any]:
    """``count`` clients for some seconds: what they saw, and the server's footprint meanwhile."""
    stop, loads = threading.Event(), [Load() for _ in range(count)]
    threads = [
        threading.Thread(target=good_client, args=(url, request, wanted, stop, load))
        for load in loads
    ]
    bad: list[int] = []
    if with_bad:
        threads.append(threading.Thread(target=lambda: bad.append(bad_clients(url, request, stop))))
    for thread in threads:
        thread.start()
    samples, start_s = [], time.monotonic()
    ends_s = start_s + seconds
    while time.monotonic() < ends_s:
        time.sleep(min(SAMPLE_S, seconds / 10))
        samples.append(footprint(pid))
    stop.set()
    for thread in threads:
        thread.join()
    lasted_s = time.monotonic() - start_s  # with what was on its way at the end
    statuses = sum((load.statuses for load in loads), Counter[str]())
    latency = summarise([each for load in loads for each in load.seconds])
    return {
        "clients": count,
        "seconds": lasted_s,
        "latency": vars(latency),
        "answered_per_second": statuses["200"] / lasted_s,
        "statuses": dict(statuses),
        "wrong": sum(load.wrong for load in loads),
        "lost": sum(load.lost for load in loads),
        "refusals_without_reason_or_retry": sum(load.unreasoned for load in loads),
        "bad_clients": sum(bad),
        "server": growth(samples),
    }


def growth(samples: list[dict[str, int]]) -> dict[str, Any]:
    """Means of the first and the last third of a footprint, and the largest."""
    third = max(1, len(samples) // 3)
    keys = ("mib", "threads", "files")

    def means(rows: list[dict[str, int]]) -> dict[str, float]:
        return {key: round(float(np.mean([row[key] for row in rows])), 1) for key in keys}

    return {
        "first_third": means(samples[:third]),
        "last_third": means(samples[-third:]),
        "most": {key: max(row[key] for row in samples) for key in keys},
    }


def engine_alone(bundle: str, frame: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], bytes, str]:
    """Latency of the engine without a server, the bytes of its result, and what it is."""
    with e2e.load(bundle) as engine:
        result = engine(frame)
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            engine(frame)
            seconds.append(time.perf_counter() - start)
        return vars(summarise(seconds)), result.astype("<f4").tobytes(), engine.describe()


def main() -> None:
    """Start the server, load it more and more, soak it, end it, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--soak", type=float, default=120.0)
    parser.add_argument("--bundle", default=str(e2e.READY_BUNDLE))
    arguments = parser.parse_args()
    height, width = e2e.open_bundle(arguments.bundle).manifest.graphs[0].frame_hw
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    alone, wanted, engine = engine_alone(arguments.bundle, frame)
    request = request_of(frame)
    command = [sys.executable, "-m", "e2e_deploy", "serve", arguments.bundle, "--port", "0"]
    command += ["--queue", str(arguments.queue), "--timeout", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        counts = [int(text) for text in arguments.clients.split(",")]
        under_load(url, server.pid, 2, 2, request, wanted)  # warms up
        before = footprint(server.pid)
        levels = [
            under_load(url, server.pid, count, arguments.seconds, request, wanted)
            for count in counts
        ]
        soak = under_load(
            url, server.pid, counts[-1], arguments.soak, request, wanted, with_bad=True
        )
        time.sleep(8)  # connections that say nothing are ended meanwhile
        after = footprint(server.pid)
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
    write_result(
        "serving",
        {
            "bundle": Path(arguments.bundle).name,
            "frame_size": [height, width],
            "engine": engine,
            "queue": arguments.queue,
            "engine_alone": alone,
            "levels": levels,
            "soak_with_bad_clients": soak,
            "server_before": before,
            "server_after": after,
            "exit_code": server.returncode,
            "server_said": said.splitlines()[-1],
        },
    )


if __name__ == "__main__":
    main()
