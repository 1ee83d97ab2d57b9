"""The backend ``inductor``: a bundle's package of AOTInductor, on the GPU or the CPU it was compiled for."""

from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.nvidia.cuda_driver import CudaDriver
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.backend import Backend
from e2e_deploy.runtime.backends.device import Device, parse_device, require_cuda
from e2e_deploy.runtime.backends.inductor.on_cpu import InductorOnCpu
from e2e_deploy.runtime.backends.inductor.on_gpu import InductorOnGpu
from e2e_deploy.runtime.backends.inductor.package import cpu_here, read_package
from e2e_deploy.runtime.backends.inductor.torch_cuda import TorchCuda, TorchGpu
from e2e_deploy.runtime.backends.plans import place_of

EXTRA = "inductor"


def _on_gpu(torch: Any, bundle: Bundle, graph: GraphEntry, asked: Device) -> bool:
    """Whether a GPU is meant; ``auto`` takes one if the bundle has a package for any.

    Raises:
        UnavailableError: it was named and is not here, or torch does not reach it.
    """
    if asked.kind == "cpu":
        return False
    reached = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.kind == "cuda":
        if not reached and cuda_device_count():
            raise UnavailableError(
                f"torch {torch.__version__} does not reach this machine's GPU: install a build of it with CUDA, and a "
                "driver that is new enough for it"
            )
        require_cuda(asked.index, reached, "inductor")
        return True
    return bool(reached) and any(
        entry.backend == "inductor" and entry.gpu and entry.frame_size == graph.frame_size
        for entry in bundle.manifest.plans
    )


def _torch_on(torch: Any, bundle: Bundle, index: int) -> TorchGpu:
    return TorchCuda(torch, index, exact=bundle.manifest.precision == "fp32")


def load_inductor(
    bundle: Bundle, graph: GraphEntry, device: str = "auto", *, threads: int | None = None
) -> Backend:
    """The package of ``graph``, ready to run.

    Args:
        bundle: opened.
        graph: one of its graphs.
        device: auto, cpu, cuda or cuda:N.
        threads: of one operator on the CPU, for the whole process from then on: PyTorch knows no others.

    Raises:
        UnavailableError: torch, the device or a fitting package is not here.
        UsageError: threads for a GPU.
        BundleError: the package is not what the manifest says, or others could have written it.
    """
    torch, asked = require("torch", EXTRA), parse_device(device)
    if not _on_gpu(torch, bundle, graph, asked):
        return InductorOnCpu(bundle, graph, torch, threads)
    if threads is not None:
        raise UsageError("`threads` has no effect with inductor on a GPU")
    driver = CudaDriver(EXTRA, asked.index)
    return InductorOnGpu(bundle, graph, _torch_on(torch, bundle, asked.index), driver, asked.index)


def inspect_package(bundle: Bundle, graph: GraphEntry) -> PlanEntry:
    """The manifest's entry of the package that fits what one is built for here; none of its code runs.

    That is the GPU where torch reaches one, whatever the bundle has packages for, else the CPU.

    Raises:
        UnavailableError, BundleError: as load_inductor.
    """
    torch = require("torch", EXTRA)
    place = cpu_here()
    if torch.cuda.is_available():
        driver = CudaDriver(EXTRA)
        place = place_of(driver.gpu)
        driver.close()
    entry, _ = read_package(bundle, graph, str(torch.__version__), place)
    return entry
