"""Devices as users name them: auto, cpu, cuda, cuda:1, intel-gpu, npu."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import DEVICE_FORM, DEVICES, BackendName

DeviceKind = Literal["auto", "cpu", "cuda", "intel-gpu", "npu"]


@dataclass(frozen=True)
class Device:
    """Where a backend runs.

    Attributes:
        kind: auto leaves it to the backend.
        index: of the GPU; 0 unless it was named.
    """

    kind: DeviceKind
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.index else self.kind

    @property
    def is_intel(self) -> bool:
        """Whether OpenVINO alone reaches it."""
        return self.kind in ("intel-gpu", "npu")


def parse_device(text: str) -> Device:
    """The device that ``text`` names.

    Raises:
        UsageError: none of names.DEVICES.
    """
    match re.fullmatch(DEVICE_FORM, str(text)):
        case None:
            raise UsageError(f"unknown device {text!r}; the devices are {DEVICES}")
        case found:
            kind: Any = found[1] or found[2]  # one of DeviceKind, as the form has them
            return Device(kind, int(found[3] or 0))


def require_reach(asked: Device, backend: BackendName) -> None:
    """Refuse a device that only another backend reaches.

    Raises:
        UsageError: names that one.
    """
    if asked.is_intel and backend != "openvino":
        raise UsageError(
            f'{asked} is a device of openvino, not of {backend}: use `backend="openvino"`'
        )


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
