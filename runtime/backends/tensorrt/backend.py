"""TensorRT and TensorRT-RTX: the backends that run a bundle's plans on an NVIDIA GPU, without torch.

Loads only a plan that the manifest lists with its hash and that nobody else could have written.
"""

from contextlib import ExitStack
from functools import partial

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.bundle.plan_files import rebuild_call
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.names import PLAN_TITLES, TrtKind
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Driver, Gpu
from e2e_deploy.nvidia.rtx_support import rtx_refusal
from e2e_deploy.nvidia.trt_api import TrtApi, find_api
from e2e_deploy.nvidia.trt_layers import summarise_layers
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.gpu.backend import GpuBackend
from e2e_deploy.runtime.backends.plans import choose_plan, place_of, read_plan, require_built_from
from e2e_deploy.runtime.backends.tensorrt.context import TrtComputation
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan


def load_plan(
    bundle: Bundle, graph: GraphEntry, api: TrtApi, gpu: Gpu
) -> tuple[PlanEntry, LoadedPlan]:
    """The plan of ``graph`` that fits here, loaded; it was built from this very graph and has its tensors.

    Raises:
        PlanMismatchError: none fits, as the manifest or the library says.
        PlanDamagedError: it is damaged, or was built from another graph.
        BundleError: it is not the file that the manifest lists, or others could have written it.
        UnavailableError: the library does not serve this GPU, the driver does not fit, or the GPU has no room.
    """
    if api.name == "tensorrt-rtx" and (refusal := rtx_refusal(gpu)):
        raise UnavailableError(refusal)
    entry = choose_plan(bundle, graph, api.name, api.version, place_of(gpu))
    rebuild = rebuild_call(bundle.root, api.name)
    plan = LoadedPlan(api, read_plan(bundle, entry), entry.file, rebuild)
    try:
        tensors = {(t.name, t.is_input): (t.dtype, t.shape) for t in plan.tensors()}
        require_built_from(bundle, graph, entry, plan.name, tensors)
    except BaseException:
        plan.close()
        raise
    return entry, plan


def inspect_plan(
    bundle: Bundle,
    graph: GraphEntry,
    library: TrtKind,
    *,
    api: TrtApi | None = None,
    driver: Driver | None = None,
) -> tuple[PlanEntry, dict[str, int]]:
    """The plan of ``graph`` that fits here, and its layers counted as summarise_layers does; needs its GPU.

    Raises:
        UnavailableError, BundleError: as TrtBackend.
    """
    api = api or find_api(library)
    with ExitStack() as stack:
        driver = driver or CudaDriver(library)
        stack.callback(driver.close)
        stack.enter_context(driver.unchanged())
        driver.use()
        entry, plan = load_plan(bundle, graph, api, driver.gpu)
        stack.callback(plan.close)
        return entry, summarise_layers(plan.information())


class TrtBackend(GpuBackend):
    """One plan on a GPU. For one thread at a time.

    Attributes:
        activation_bytes: GPU memory the execution context takes.
        entry: the manifest's entry of the plan.

    Raises:
        UnavailableError: the library, the driver or a fitting plan is not here.
        BundleError: the plan is not what the manifest says, or others could have written it.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        device: str = "auto",
        *,
        library: TrtKind,
        api: TrtApi | None = None,
        driver: Driver | None = None,
    ) -> None:
        asked, title = parse_device(device), PLAN_TITLES[library]
        if asked.kind == "cpu":
            raise UsageError(f"{title} runs on a GPU only, not on {device}")
        self.name: str = library
        self._api = api or find_api(library)
        driver = driver or CudaDriver(library, asked.index)
        super().__init__(bundle, graph, driver, asked.index, title)

    def _load(self, bundle: Bundle) -> None:
        graph, driver = self._graph, self._driver
        self.entry, plan = load_plan(bundle, graph, self._api, driver.gpu)
        self._closing.callback(plan.close)
        self.activation_bytes = plan.activation_bytes
        takes = graph.inputs[0].name
        self._start(
            partial(TrtComputation, driver, plan, takes, self._layout, self._title),
            f"{self.activation_bytes / 2**20:.0f} MiB for activations",
        )
