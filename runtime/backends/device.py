"""Devices as users name them: auto, cpu, cuda, cuda:1."""

import re
from dataclasses import dataclass
from typing import Literal

from e2e_deploy.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class Device:
    """Where a backend runs.

    Attributes:
        kind: auto leaves it to the backend.
        index: of the CUDA device; 0 unless it was named.
    """

    kind: Literal["auto", "cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.index else self.kind


def parse_device(text: str) -> Device:
    """The device that ``text`` names.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
    """
    match re.fullmatch(r"(auto|cpu)|cuda(?::([0-9]{1,4}))?", str(text)):
        case None:
            raise UsageError(f"unknown device {text!r}; the devices are auto, cpu, cuda, cuda:N")
        case found if found[1]:
            return Device("cpu" if found[1] == "cpu" else "auto")
        case found:
            return Device("cuda", int(found[2] or 0))


def require_cuda(index: int, count: int, who: str) -> None:
    """Refuse a CUDA device that is not here.

    Args:
        index: of the device.
        count: how many there are.
        who: what would run there.

    Raises:
        UnavailableError: there is none, or fewer than ``index`` needs.
    """
    if not count:
        raise UnavailableError(
            f'{who} on cuda was asked for, but this machine has no CUDA device; use `device="cpu"`'
        )
    if index >= count:
        here = (
            "one CUDA device, cuda:0"
            if count == 1
            else f"{count} CUDA devices, cuda:0 to cuda:{count - 1}"
        )
        raise UnavailableError(f"cuda:{index} was asked for, and this machine has {here}")
