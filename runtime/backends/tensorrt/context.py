"""TensorRT's execution context as a computation of the pipeline."""

from functools import partial
from typing import Any

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.nvidia.cuda_driver import Driver
from e2e_deploy.runtime.backends.gpu.computation import DriverRecording
from e2e_deploy.runtime.backends.layout import Layout
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan


class TrtComputation:
    """An execution context of a plan, in one stream.

    Args:
        driver: of the GPU.
        plan: loaded; it must be closed after this.
        takes: name of its input.
        layout: of its outputs.
        title: of the library, for people.
        stream: in which it runs.

    Raises:
        UnavailableError: the GPU has no room for it.
    """

    def __init__(
        self,
        driver: Driver,
        plan: LoadedPlan,
        takes: str,
        layout: Layout,
        title: str,
        stream: int,
    ) -> None:
        self._driver, self._plan = driver, plan
        self._takes, self._layout = takes, layout
        self._title, self._stream = title, stream
        self._context: Any = plan.context()

    def queue(self, frame: int, result: int) -> None:
        """Queue the plan's work from one address to another."""
        places = {place.name: result + place.offset for place in self._layout.places}
        for name, address in ({self._takes: frame} | places).items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"did not take the address of {name}")
        if not self._context.execute_async_v3(self._stream):
            raise self._failed("could not run the plan")

    def _failed(self, what: str) -> E2EDeployError:
        said = self._plan.last_errors()
        return E2EDeployError(f"{self._title} {what}{': ' + said if said else ''}")

    def record(self, frame: int, result: int) -> DriverRecording:
        """The plan's work as a CUDA graph."""
        if not self._capturable():
            raise E2EDeployError(f"{self._title} says this plan cannot be captured")
        return DriverRecording(self._driver, self._stream, partial(self.queue, frame, result))

    def _capturable(self) -> bool:
        # No local of record: what that raises would keep the context past the memory and streams it uses.
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._stream))

    def close(self) -> None:
        """Drop the context: what is raised may hold this object longer than the memory it uses."""
        self._context = None
