"""Ray: begun here for one run, or a cluster that is there already; and what of it engines are given.

Ray sends no statistics of use and shows no dashboard; what it begins here ends with the block.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import BackendChoice
from e2e_deploy.packages import environment, require
from e2e_deploy.runtime.backends import ENTRIES
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.text import clean

HELPERS = 2
"""Tasks that read and write beside the engines of one machine; they wait more than they compute."""
CORES = 4
"""Of an engine on a CPU, where nobody says and there are as many."""
MAX_ROOM = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of a folder's name in which Ray can begin: a socket's has 107 at most."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its core writes to stderr what its logs hold as well
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_HERE = {
    # By its name of Windows and macOS, where Ray listens on 127.0.0.1 alone; on Linux it does so with this.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Of a run that was killed: for how long its helpers look for what has gone; a minute if not said.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}
"""Of what is begun here: whoever reaches Ray runs programs, so nobody else does. Others on the same machine would need
its token, which lies beside its logs; Ray's own would lie in the home folder, which may not be there or be shared."""
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_TOKEN = secrets.token_hex(32)  # one a process: Ray reads it once


@dataclass(frozen=True)
class Asked:
    """What a user asks for engines.

    Attributes:
        workers: engines at once; None takes every GPU, or on CPUs what ``cores`` leave room for.
        cores: of an engine on a CPU; None takes 4, or what there is.
        device: auto, cpu or cuda; auto takes GPUs where there are some and ``backend`` reaches them.
        backend: of the engines.
    """

    workers: int | None = None
    cores: int | None = None
    device: str = "auto"
    backend: BackendChoice = "auto"


@dataclass(frozen=True)
class Share:
    """What the engines of a run get of a cluster.

    Attributes:
        workers: engines at once.
        cores: of each, on a CPU.
        gpus: of each: 1, or 0 on a CPU.
    """

    workers: int
    cores: int
    gpus: int

    @property
    def threads(self) -> int | None:
        """Of an engine on a CPU; a GPU's takes none."""
        return None if self.gpus else self.cores

    @property
    def device(self) -> str:
        """Where engines are loaded: on what Ray counts for them, or not at all."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Node:
    """What Ray counts on one machine."""

    cpus: int
    gpus: int = 0

    def holds(self, share: Share) -> int:
        """How many of these engines it has room for."""
        room = self.cpus // share.cores
        return min(room, self.gpus) if share.gpus else room


@contextmanager
def cluster(address: str | None, asked: Asked) -> Iterator[tuple[Any, Share]]:
    """Ray's data package, connected, and the share of a run.

    Args:
        address: of a cluster, ``auto`` for the one of this machine; None begins one here, for as long as the block.
        asked: for its engines.

    Raises:
        UnavailableError: Ray is not installed, the cluster is not there, or it has no GPU and one was asked for.
        UsageError: cores for engines on GPUs, engines for which there is no room, or an ``address`` that is none.
    """
    _require_there(address)
    with (
        _room(is_here=address is None) as (room, settings),
        environment(settings),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # what Ray deprecates in itself is no user's business
        ray, data = require("ray", "bulk"), require("ray.data", "bulk")
        if ray.is_initialized():
            raise UsageError("this process uses Ray already; call ray.shutdown() first")
        # Ray has read this setting when it was imported, perhaps by others and without it.
        constants: Any = require("ray._private.ray_constants", "bulk")
        reaches_others = constants.ENABLE_RAY_CLUSTER
        constants.ENABLE_RAY_CLUSTER = reaches_others and address is not None
        here = len(os.sched_getaffinity(0))
        usual: int | None = None
        given: dict[str, Any] = {"address": address}
        if address is None:
            # Ray is told of more CPUs than there are, where more are asked for: what it counts is no measure any more.
            usual = min(CORES, here)
            counted = max(here, (asked.workers or 1) * (asked.cores or usual)) + HELPERS
            given = {"address": "local", "num_cpus": counted, "_temp_dir": room}
            given |= {"include_dashboard": False}
        try:
            try:
                with _signals_kept():
                    ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
            except Exception as error:  # of many kinds, by what is missing
                raise UnavailableError(
                    f"Ray could not be begun here: {clean(str(error), 300)}"
                    if address is None
                    else f"no cluster of Ray could be reached at {masked(address)}: {clean(str(error), 300)}; "
                    "one that asks for a token needs RAY_AUTH_MODE=token and the file that RAY_AUTH_TOKEN_PATH names"
                ) from None
            _quieten(data)
            found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            nodes = [Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in found]
            yield data, _share(nodes, asked, usual)
        finally:
            ray.shutdown()
            constants.ENABLE_RAY_CLUSTER = reaches_others


def _require_there(address: str | None) -> None:
    """Ask the cluster's head for a connection: Ray itself asks for many minutes, and says so many times."""
    if address is None or address == "auto":
        return
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found[2]) < 2**16:
        raise UsageError(
            f"`address` is {masked(address)}; expected auto, or host:port of the head of a cluster of Ray"
        )
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
    except OSError as error:
        raise UnavailableError(
            f"no cluster of Ray could be reached at {masked(address)}: nobody answers there "
            f"({clean(error.strerror or str(error), 100)})"
        ) from None


@contextmanager
def _room(*, is_here: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """A folder for what is begun here, which nobody else can read, and Ray's settings; of another cluster no folder."""
    if not is_here:
        yield "", _SETTINGS
        return
    room = tempfile.mkdtemp(prefix="e2e-ray-")
    try:
        if (more := len(os.fsencode(room)) - MAX_ROOM) > 0:
            raise UnavailableError(
                f"the temporary folder {tempfile.gettempdir()} has too long a name for the sockets that Ray makes in "
                f"it, by {more} bytes; set TMPDIR to a shorter one"
            )
        token = os.path.join(room, "token")
        with open(token, "x", encoding="ascii") as stream:
            stream.write(_TOKEN)
        yield room, _SETTINGS | _HERE | {"RAY_AUTH_TOKEN_PATH": token}
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """A block after which signals do what they did: Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _share(nodes: list[Node], asked: Asked, usual: int | None = None) -> Share:
    """What engines get of these machines, of whose CPUs some are left for those that read and write.

    Args:
        nodes: the machines.
        asked: by the user.
        usual: cores of an engine on a CPU, where nobody says; None for what the machines have.
    """
    if not nodes:
        raise UnavailableError("this cluster of Ray has no node that is alive; begin one")
    share = _engines(nodes, asked, usual)
    taken, cpus = share.workers * share.cores, sum(node.cpus for node in nodes)
    if taken >= cpus:
        raise UsageError(
            f"`workers`, {share.workers} with {share.cores} CPUs each, take {taken} of {cpus} CPUs, and none is "
            "left to read and write; ask for fewer"
        )
    # Ray would wait for room without end, and say nothing.
    room, largest = sum(node.holds(share) for node in nodes), max(node.cpus for node in nodes)
    if room < share.workers and share.gpus:
        raise UsageError(
            f"`workers` is {share.workers}, and these nodes have a CPU beside a GPU for {room}; ask for fewer, or give "
            "CPUs to the nodes with GPUs"
        )
    if not room:
        raise UsageError(
            f"`cores` is {share.cores}, and the largest node has {largest} CPUs; ask for fewer"
        )
    if room < share.workers:
        raise UsageError(
            f"`workers` is {share.workers}, with {share.cores} CPUs each, and these nodes, of which the largest has "
            f"{largest} CPUs, have room for {room}; ask for fewer, or for fewer `cores`"
        )
    return share


def _engines(nodes: list[Node], asked: Asked, usual: int | None) -> Share:
    gpus = sum(node.gpus for node in nodes)
    if asked.device == "cuda" and not gpus:
        raise UnavailableError('`device="cuda"`, and Ray finds no GPU here')
    reaches = asked.backend == "auto" or ENTRIES[asked.backend].cuda
    if gpus and (asked.device == "cuda" or (asked.device == "auto" and reaches)):
        if asked.cores is not None:
            raise UsageError("`cores` is of engines on a CPU, and these run on GPUs")
        if asked.workers is not None and asked.workers > gpus:
            raise UsageError(
                f"`workers` is {asked.workers}, and there are {gpus} GPUs, one for each engine"
            )
        return Share(asked.workers or gpus, 1, 1)
    free = [max(0, node.cpus - HELPERS) for node in nodes]
    each = asked.cores or usual or min(CORES, max(1, *free))
    return Share(asked.workers or max(1, sum(count // each for count in free)), each, 0)


def _quieten(data: Any) -> None:
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
