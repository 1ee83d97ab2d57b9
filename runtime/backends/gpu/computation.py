"""What a pipeline runs: something that computes from one address of the GPU's memory to another, in one stream."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.nvidia.cuda_driver import Driver


class Recording(Protocol):
    """One computation between two fixed addresses, as a CUDA graph."""

    def launch(self) -> None:
        """Queue it again in the stream that it was recorded in."""
        ...

    def destroy(self) -> None:
        """Release it; it does not run."""
        ...


class Computation(Protocol):
    """A loaded graph in the stream it was made for. For one thread at a time."""

    def queue(self, frame: int, result: int) -> None:
        """Queue one run in the stream, without waiting.

        Args:
            frame: address of the input, as the graph takes it.
            result: address of the output; of several the block they lie in, as ``Layout`` has it.

        Raises:
            E2EDeployError: it is refused.
        """
        ...

    def record(self, frame: int, result: int) -> Recording:
        """The same run as a CUDA graph; it does not run now. The memory must live as long as the recording.

        Raises:
            E2EDeployError: why it cannot be recorded; the stream is as before.
        """
        ...

    def close(self) -> None:
        """Release what depends on streams and memory of others; a second call does nothing."""
        ...


class DriverRecording:
    """A CUDA graph of what ``queue`` puts into a stream, recorded by the driver itself.

    Raises:
        E2EDeployError: what ``queue`` or the driver refuses.
    """

    def __init__(self, driver: Driver, stream: int, queue: Callable[[], None]) -> None:
        self._driver, self._stream = driver, stream
        driver.begin_capture(stream)
        try:
            queue()
        except BaseException:
            with suppress(E2EDeployError):  # the stream must leave its mode
                driver.destroy_graph(driver.end_capture(stream))
            raise
        self._graph: Any = driver.end_capture(stream)

    def launch(self) -> None:
        """Queue it."""
        self._driver.launch(self._graph, self._stream)

    def destroy(self) -> None:
        """Release it."""
        self._driver.destroy_graph(self._graph)
