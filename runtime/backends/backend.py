"""What every backend is: load a graph of a bundle, call it with frames, close it.

N: frames that a graph takes at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import TensorSpec
from e2e_deploy.errors import BundleError
from e2e_deploy.runtime.backends.dlpack import DEFAULT_STREAM, RawArray
from e2e_deploy.runtime.backends.layout import Result

if TYPE_CHECKING:
    from e2e_deploy.runtime.backends.gpu.transfers import Transfers


@dataclass(frozen=True)
class GpuPicture:
    """uint8 RGB [H, W, 3] in GPU memory, without gaps between rows, finished; valid as long as this object lives."""

    address: int
    hw: tuple[int, int]


Picture = npt.NDArray[np.uint8] | GpuPicture
"""uint8 RGB [H, W, 3] or [N, H, W, 3] on the host, or [H, W, 3] on the GPU."""


class Backend(Protocol):
    """One loaded graph. Not safe to call from two threads at once.

    Where the graph gives several results, what is called the result here is the block they lie in, as ``Layout`` has
    it: flat, float32, in ``out`` as in new memory, on the host as on the GPU.

    Frames are uint8 RGB [N, H, W, 3] as the graph takes them, C-contiguous; where N is 1 also [H, W, 3], and the result
    is then without that axis too. Of a core graph: rgb float32 [1, 3, H, W] or [3, H, W].

    Attributes:
        name: of names.BACKENDS.
        device: where it runs, in words, for example "CPU, 2 threads".
        slots: frames that may be submitted before the first of them is collected.
        transfers: counts copies between host and GPU; None where a library makes them, or nobody. Only a backend that
            has one takes a GpuPicture.
        gpu: index of the CUDA device whose memory ``on_gpu`` takes; None where it takes none.
        stream: in which frames of that device must be ready, as DLPack counts CUDA's.
    """

    name: str
    device: str
    slots: int
    transfers: "Transfers | None"
    gpu: int | None
    stream: int

    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames on the host; a slot must be free.

        Args:
            frame: as the graph takes it.
            out: C-contiguous memory of the result's shape, which it is written to.
        """
        ...

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """Result of frames in the memory of the device ``gpu``, there and finished; neither is copied."""
        ...

    def submit(self, frame: Picture) -> int:
        """Begin frames; the slot that holds them until they are collected. The frame may be changed afterwards."""
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


class Closing:
    """The context manager every backend shares: leaving the block closes it."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostOnly(Closing):
    """A backend, or a device it runs on, that takes no memory of a GPU."""

    gpu: int | None = None
    stream = DEFAULT_STREAM

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """No frame comes here while ``gpu`` is None."""
        raise AssertionError(f"{type(self).__name__} takes frames of the host")


class OneAtATime(HostOnly, ABC):
    """A backend that has finished a frame when it returns: submitting computes."""

    slots = 1
    transfers: "Transfers | None" = None
    _result: Result | None = None

    @abstractmethod
    def __call__(self, frame: npt.NDArray[Any], out: Result | None = None) -> Result:
        """Result of frames as the graph takes them."""

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


def not_as_described(onnx: str, specs: Sequence[TensorSpec]) -> BundleError:
    """For a graph whose inputs, or outputs, are others than ``specs``, which its manifest tells."""
    told = " and ".join(f"{spec.dtype} {spec.shape} as {spec.name!r}" for spec in specs)
    return BundleError(
        f"{onnx} is not the graph its manifest describes: expected {told} and nothing else"
    )
