"""What every backend is: load a graph of a bundle, call it with a frame, close it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.runtime.backends.tensorrt.transfers import Transfers

Result = npt.NDArray[np.float32]
"""Depth [H, W] or normals [H, W, 3]."""


@dataclass(frozen=True)
class GpuPicture:
    """uint8 RGB [H, W, 3] in GPU memory, without gaps between rows, finished; valid as long as this object lives."""

    address: int
    hw: tuple[int, int]


Picture = npt.NDArray[np.uint8] | GpuPicture
"""uint8 RGB [H, W, 3] on the host or on the GPU."""


class Backend(Protocol):
    """One loaded graph. Not safe to call from two threads at once.

    Attributes:
        name: onnxruntime, torch, tensorrt or tensorrt-rtx.
        device: where it runs, in words, for example "CPU, 2 threads".
        slots: frames that may be submitted before the first of them is collected.
        transfers: counts copies between host and GPU; None where a library makes them, or nobody. Only a backend that
            has one takes a GpuPicture.
    """

    name: str
    device: str
    slots: int
    transfers: "Transfers | None"

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3] of the graph's frame size; a slot must be free."""
        ...

    def submit(self, frame: Picture) -> int:
        """Begin a frame; the slot that holds it until it is collected. The frame may be changed afterwards."""
        ...

    def collect(self, slot: int) -> Result:
        """The result of what was submitted into ``slot``, as soon as it is there; slots in the order of submission."""
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


_MEMORY = (
    *("Available memory of", "Failed to allocate", "bad_alloc", "bad allocation"),
    *("out of memory", "can't allocate memory"),
)


def failed(what: str, error: Exception, kind: type[E2EDeployError]) -> E2EDeployError:
    """A library's error as ours: ``kind``, or UnavailableError where memory did not do.

    Those of ONNX Runtime share no public base class, and neither its nor torch's say in their type that it was memory.
    """
    said = clean(str(error))
    if isinstance(error, MemoryError) or any(word in str(error) for word in _MEMORY):
        return UnavailableError(
            f"{what}, for it needs more memory than is free here: export for smaller pictures or another precision, "
            f"or free some ({said})"
        )
    return kind(f"{what}: {said}")


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


class OneAtATime(Closing, ABC):
    """A backend that has finished a frame when it returns: submitting computes."""

    slots = 1
    transfers: "Transfers | None" = None
    _result: Result | None = None

    @abstractmethod
    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3]."""

    def submit(self, frame: Picture) -> int:
        """Compute a frame on the host and keep its result for ``collect``."""
        assert isinstance(frame, np.ndarray), f"{type(self).__name__} takes frames of the host"
        self._result = self(frame)
        return 0

    def collect(self, slot: int) -> Result:
        """The result of what was submitted."""
        result, self._result = self._result, None
        assert result is not None, f"nothing was submitted into slot {slot}"
        return result
