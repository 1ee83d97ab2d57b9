"""What every backend is: load a graph of a bundle, call it with a frame, close it."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle import Bundle
from e2e_deploy.manifest import GraphEntry

Result = npt.NDArray[np.float32]
"""Depth [H, W] or normals [H, W, 3]."""


class Backend(Protocol):
    """One loaded graph. Not safe to call from two threads at once.

    Attributes:
        name: onnxruntime, torch, tensorrt or tensorrt-rtx.
        device: where it runs, in words, for example "CPU, 2 threads".
    """

    name: str
    device: str

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3] of the graph's frame size."""
        ...

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Loader = Callable[[Bundle, GraphEntry, str], Backend]
"""(bundle, graph, device) -> backend; device is auto, cpu or cuda."""


class Closing:
    """The context manager every backend shares: leaving the block closes it."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
