"""What the plan backends need of CUDA: memory, streams, events, graphs. Through cuda-python, so no torch.

``Driver`` is the contract, which the tests' recording double keeps too; ``CudaDriver`` is the real one.
Addresses, streams, events and graphs are plain integers or opaque handles.
"""

import ctypes
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.packages import require

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Gpu:
    """The GPU at hand.

    Attributes:
        name: as the driver says it.
        target: its compute capability, for example sm89.
        cuda: (major, minor) of CUDA that its driver supports.
    """

    name: str
    target: str
    cuda: tuple[int, int]


class Driver(Protocol):
    """One GPU. Every call after ``use`` in the same thread works on it; handles are valid until they are destroyed."""

    gpu: Gpu

    @property
    def context(self) -> int:
        """Handle of the context, for other libraries."""
        ...

    def use(self) -> None:
        """Make the GPU current in the calling thread."""
        ...

    def unchanged(self) -> AbstractContextManager[None]:
        """A block after which the GPU that is current in the calling thread, or none, is the one it was before."""
        ...

    def new_stream(self) -> int:
        """A stream that does not wait for the default one."""
        ...

    def synchronise(self, stream: int) -> None:
        """Wait for everything in a stream."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Release a stream."""
        ...

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory."""
        ...

    def free(self, address: int) -> None:
        """Release device memory."""
        ...

    def allocate_pinned(self, size: int) -> Bytes:
        """``size`` bytes of page-locked host memory, so that copies are asynchronous."""
        ...

    def free_pinned(self, array: Bytes) -> None:
        """Release page-locked memory; no view of it may be used again."""
        ...

    def copy_in(self, address: int, array: Bytes, stream: int) -> None:
        """Queue a copy of a whole array to the device."""
        ...

    def copy_out(self, array: Bytes, address: int, stream: int) -> None:
        """Queue a copy from the device that fills an array."""
        ...

    def copy_on_gpu(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes within the device."""
        ...

    def new_event(self) -> Any:
        """An event with a time."""
        ...

    def record(self, event: Any, stream: int) -> None:
        """Queue an event."""
        ...

    def stream_wait(self, stream: int, event: Any) -> None:
        """Let what is queued in a stream from now on wait for an event, as it was last recorded."""
        ...

    def wait(self, event: Any) -> None:
        """Wait for an event on the host."""
        ...

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have passed."""
        ...

    def destroy_event(self, event: Any) -> None:
        """Release an event."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From here, work queued by this thread in the stream is recorded, not run."""
        ...

    def end_capture(self, stream: int) -> Any:
        """What was recorded, ready to launch."""
        ...

    def launch(self, graph: Any, stream: int) -> None:
        """Queue a recorded graph."""
        ...

    def destroy_graph(self, graph: Any) -> None:
        """Release a recorded graph."""
        ...

    def share(self) -> "Driver":
        """Another hold on the same GPU, which keeps its memory after this one is closed; to be closed too."""
        ...

    def close(self) -> None:
        """Give the GPU back; a second call does nothing."""
        ...


class CudaDriver:
    """The CUDA driver through cuda-python, on one device's primary context.

    Args:
        extra: the extra that installs cuda-python, for the message.
        device: index of the device.

    Raises:
        UnavailableError: cuda-python, the driver or the device is missing.
    """

    def __init__(self, extra: str = "tensorrt", device: int = 0) -> None:
        if not cuda_device_count():
            raise UnavailableError(
                'this machine has no NVIDIA GPU with a working driver; use `backend="onnxruntime"`'
            )
        if device >= cuda_device_count():
            raise UnavailableError(
                f"cuda:{device} was asked for, and this machine has {cuda_device_count()} CUDA devices, from cuda:0"
            )
        self._extra, self._index = extra, device
        self._cuda = require("cuda.bindings.driver", extra)
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.gpu = self._facts()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function; its one result, if it has one.

        Raises:
            E2EDeployError: CUDA's name of the error and its text.
            UnavailableError: the driver is too old for the installed cuda-python.
        """
        try:
            status, *results = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # how the bindings say that the driver lacks a function
            raise UnavailableError(
                f"the NVIDIA driver does not fit the installed cuda-python ({error}); install a newer driver"
            ) from error
        except ValueError as error:  # how they say that they do not know an error
            raise E2EDeployError(f"the GPU reports an unknown error in {name}: {error}") from error
        if int(status) != 0:
            _, text = self._cuda.cuGetErrorString(status)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise E2EDeployError(f"the GPU reports {status.name} in {name}: {reason}")
        return results[0] if results else None

    def _facts(self) -> Gpu:
        attribute = self._cuda.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", getattr(attribute, name), self._device)
            for name in (
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
            )
        )
        name = self._call("cuDeviceGetName", 256, self._device)
        text = name.split(b"\0")[0].decode(errors="replace") if isinstance(name, bytes) else name
        version = int(self._call("cuDriverGetVersion"))
        return Gpu(
            re.sub(r"\s+", " ", str(text)).strip(),
            f"sm{major}{minor}",
            (version // 1000, version % 1000 // 10),
        )

    @property
    def context(self) -> int:
        """Handle of the device's primary context."""
        return int(self._context)

    def use(self) -> None:
        """Make the GPU current in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block for ``use`` in a thread of somebody else, who may work on another GPU."""
        before = self._call("cuCtxGetCurrent")
        try:
            yield
        finally:
            self._call("cuCtxSetCurrent", before)

    def new_stream(self) -> int:
        """A stream that does not wait for the default one."""
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call("cuStreamCreate", int(flags)))

    def synchronise(self, stream: int) -> None:
        """Wait for everything in a stream."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Release a stream."""
        self._call("cuStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory."""
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        """Release device memory."""
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> Bytes:
        """``size`` bytes of page-locked host memory."""
        address = int(self._call("cuMemAllocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: Bytes) -> None:
        """Release page-locked memory."""
        self._call("cuMemFreeHost", array.ctypes.data)

    def copy_in(self, address: int, array: Bytes, stream: int) -> None:
        """Queue a copy to the device."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: Bytes, address: int, stream: int) -> None:
        """Queue a copy from the device."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def copy_on_gpu(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy within the device."""
        self._call("cuMemcpyDtoDAsync", address, source, size, stream)

    def new_event(self) -> Any:
        """An event with a time."""
        return self._call("cuEventCreate", int(self._cuda.CUevent_flags.CU_EVENT_DEFAULT))

    def record(self, event: Any, stream: int) -> None:
        """Queue an event."""
        self._call("cuEventRecord", event, stream)

    def stream_wait(self, stream: int, event: Any) -> None:
        """Let a stream wait for an event."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait(self, event: Any) -> None:
        """Wait for an event on the host."""
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have passed."""
        return float(self._call("cuEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """Release an event."""
        self._call("cuEventDestroy", event)

    def begin_capture(self, stream: int) -> None:
        """Record from here; other threads may go on with their own CUDA work."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """What was recorded, ready to launch."""
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Queue a recorded graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Release a recorded graph."""
        self._call("cuGraphExecDestroy", graph)

    def share(self) -> "CudaDriver":
        """Another hold on the device's primary context."""
        return CudaDriver(self._extra, self._index)

    def close(self) -> None:
        """Give the primary context back."""
        if self._context is not None:
            self._context = None
            self._call("cuDevicePrimaryCtxRelease", self._device)


def current_gpu() -> Gpu | None:
    """The GPU at hand, None without one.

    Raises:
        UnavailableError: one is there, and cuda-python is not.
    """
    if not cuda_device_count():
        return None
    driver = CudaDriver()
    try:
        return driver.gpu
    finally:
        driver.close()
