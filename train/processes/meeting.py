"""Where the processes of a run meet before they compute: a part of the store that no earlier life of the run used.

torchrun keeps one store for all lives of a run, and torch puts the processes' addresses under the same keys in each. So
a process that was started again may find the address of a dead one, and wait for it without end (pytorch #135712).
Knows: how the living tell each other from what the dead left. Does not know: launchers, devices.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, as its __all__ says
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

from e2e_deploy.errors import E2EDeployError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SCHEME = "e2e-deploy"
"""Of the address by which torch is told to meet here."""

PATIENCE = timedelta(minutes=30)
"""Processes import torch from file systems that they share, all at once."""

_LIFE = "e2e-deploy/life"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def meeting_address() -> str:
    """What ``init_process_group`` takes as ``init_method``; all else comes from the environment, as with ``env://``."""
    global _is_registered
    if not _is_registered:
        register_rendezvous_handler(SCHEME, _met)  # type: ignore[no-untyped-call]  # torch's
        _is_registered = True
    return f"{SCHEME}://"


_is_registered = False


def _met(url: str, timeout: timedelta, **_: object) -> Iterator[tuple["Store", int, int]]:
    found: Any = rendezvous(url.replace(SCHEME, "env", 1), timeout=PATIENCE)
    store, rank, world = next(found)
    yield meet(store, rank, world), rank, world


def meet(store: "Store", rank: int, world: int, patience: timedelta = PATIENCE) -> "Store":
    """The part of ``store`` that the ``world`` processes living now have for themselves; all call it.

    The first process names a part that is new, the others write there that they came, and go on when they are answered:
    a part that a dead process named has nobody who answers.

    Raises:
        E2EDeployError: one of them did not come in time.
    """
    end = time.monotonic() + patience.total_seconds()
    return _invite(store, world, end) if rank == 0 else _follow(store, rank, end)


def _invite(store: "Store", world: int, end: float) -> "Store":
    life = uuid4().hex
    part = PrefixStore(life, store)
    store.set(_LIFE, life)
    missing = set(range(1, world))

    def are_all_here() -> bool:
        for rank in [*missing]:
            if not part.check([_here(rank)]):
                return False
            part.set(_answer(rank), part.get(_here(rank)).decode())
            missing.remove(rank)
        return True

    if not _wait_for(are_all_here, end):
        raise E2EDeployError(
            f"{len(missing)} of {world} processes did not come to the others, number {min(missing)} first: what they "
            "said tells why; start all of them again"
        )
    return part


def _follow(store: "Store", rank: int, end: float) -> "Store":
    # The part may be one in which a process of the same number was answered once.
    name, life = uuid4().hex, ""

    def is_answered() -> bool:
        nonlocal life
        now = store.get(_LIFE).decode() if store.check([_LIFE]) else ""
        part = PrefixStore(now, store)
        if now != life:
            part.set(_here(rank), name)
            life = now
        return (
            bool(life) and part.check([_answer(rank)]) and part.get(_answer(rank)) == name.encode()
        )

    if not _wait_for(is_answered, end):
        raise E2EDeployError(
            f"process {rank} was not answered by the first one: what that said tells why; start all of them again"
        )
    return PrefixStore(life, store)


def _here(rank: int) -> str:
    return f"here/{rank}"


def _answer(rank: int) -> str:
    return f"answer/{rank}"


def _wait_for(is_so: Callable[[], bool], end: float) -> bool:
    pause_s = _FIRST_PAUSE_S
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
    return True
