"""What every question is given: device, time, frames, and where its result goes."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.gpu.contenders.models import make_inputs
from benchmarks.gpu.results import Result, Write
from benchmarks.gpu.timing import Device

FULL_HW, SMALL_HW = (576, 768), (64, 96)


@dataclass
class Job:
    """A run of this folder's questions.

    Attributes:
        small: e2e-tiny, small frames, few rounds.
        work: folder for checkpoints and bundles.
        until: time.monotonic() at which nothing slow is begun any more.
        write: the result so far, to its file.
        lines: what is printed again at the end.
    """

    device: Device
    small: bool
    work: Path
    until: float
    write: Write
    lines: list[str] = field(default_factory=list)

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Of the frames, which the network sees as they are."""
        return SMALL_HW if self.small else FULL_HW

    @property
    def rounds(self) -> int:
        """Timed calls."""
        return 3 if self.small else 20

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def frames(self) -> list[torch.Tensor]:
        """Four frames on the device, [1, H, W, 3]."""
        return list(torch.from_numpy(make_inputs(self.frame_hw, 1)).to(self.device.name))

    def say(self, text: str) -> None:
        """A line at once, and again at the end."""
        print(text, file=sys.stderr, flush=True)
        self.lines.append(text)

    def facts(self) -> Result:
        """What every result begins with."""
        return {
            "model": "e2e-tiny, trained" if self.small else "SD2 size, random weights",
            "frame_size": list(self.frame_hw),
            "batch": 1,
            "precision": self.device.precision,
        }
