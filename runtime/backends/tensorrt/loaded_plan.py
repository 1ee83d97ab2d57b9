"""A plan in TensorRT's or TensorRT-RTX's hands: deserialised from bytes, asked what it is.

A plan is native code: the caller has checked where it comes from. Knows nothing of bundles or of CUDA memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from e2e_deploy.errors import UnavailableError
from e2e_deploy.nvidia.trt_api import TrtApi, log
from e2e_deploy.nvidia.trt_messages import explain_load, tidy


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of a plan."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


class LoadedPlan:
    """A deserialised plan and the runtime it belongs to.

    Args:
        api: the library.
        data: the plan.
        what: its name for people.
        rebuild: the command that makes a new one, for messages.

    Attributes:
        engine: the library's ICudaEngine.

    Raises:
        UnavailableError: it is of another version, for another GPU, or there is no driver.
        BundleError: it is damaged.
    """

    def __init__(self, api: TrtApi, data: bytes, what: str, rebuild: str) -> None:
        self._api = api
        self.runtime = api.create("Runtime")
        self._check_header(data, what, rebuild)
        api.take_errors()
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            messages = api.take_errors()
            self.close()
            raise explain_load(f"{api.title} does not load {what}", messages, rebuild)

    def _check_header(self, data: bytes, what: str, rebuild: str) -> None:
        """Ask for a verdict where the library gives one; it is no check for tampering, and names few causes."""
        if not hasattr(self.runtime, "get_engine_validity"):
            return
        validity, bits = self.runtime.get_engine_validity(data[: self.runtime.engine_header_size])
        members = self._api.module.EngineInvalidityDiagnostics.__members__
        causes = [name for name, member in members.items() if bits & int(member)]
        if validity.name == "INVALID" and causes:
            raise explain_load(f"{self._api.title} does not load {what}", causes, rebuild)
        if validity.name == "SUBOPTIMAL":
            log.warning("%s will run, but slower than one built for this GPU: %s", what, rebuild)

    @property
    def name(self) -> str:
        """What was given to open_network."""
        return str(self.engine.name)

    @property
    def activation_bytes(self) -> int:
        """Device memory an execution context of this plan takes."""
        return int(self.engine.device_memory_size_v2)

    def tensors(self) -> list[EngineTensor]:
        """Inputs and outputs."""
        found = []
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            found.append(
                EngineTensor(
                    name,
                    self.engine.get_tensor_mode(name) == self._api.module.TensorIOMode.INPUT,
                    np.dtype(self._api.module.nptype(self.engine.get_tensor_dtype(name))).name,
                    tuple(self.engine.get_tensor_shape(name)),
                )
            )
        return found

    def information(self) -> str:
        """The engine inspector's JSON."""
        inspector = self.engine.create_engine_inspector()
        text = inspector.get_engine_information(self._api.module.LayerInformationFormat.JSON)
        return str(text)

    def context(self) -> Any:
        """A new IExecutionContext with its own activation memory; for one thread.

        Raises:
            UnavailableError: the GPU has no room for it.
        """
        self._api.take_errors()
        context = self.engine.create_execution_context()
        if context is None:
            raise UnavailableError(
                f"{self._api.title} could not make an execution context, which takes "
                f"{self.activation_bytes / 2**20:.0f} MiB of GPU memory: {tidy(self._api.take_errors())}"
            )
        return context

    def last_errors(self) -> str:
        """What the library said since this was last asked, as one line."""
        return tidy(self._api.take_errors())

    def close(self) -> None:
        """Release the plan, then its runtime; every context must be gone."""
        self.engine = None
        self.runtime = None
