"""Plans of TensorRT and TensorRT-RTX: built of the bundle's ONNX graph, in a process of its own."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.engines.builder import Request, build_apart
from e2e_deploy.export.engines.job import Built, Job, Order
from e2e_deploy.export.engines.tensorrt import Progress
from e2e_deploy.export.onnx.lint import require_clean
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.nvidia.trt_layers import summarise_layers
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan
from e2e_deploy.system.cache_folder import private_folder
from e2e_deploy.system.files import whole_file


@dataclass(frozen=True, kw_only=True)
class TrtJob(Job):
    """A plan of one of NVIDIA's libraries.

    Attributes:
        api: the library.
    """

    api: TrtApi

    def build(self, order: Order, plan: Path, progress: Progress | None) -> Built:
        """Write the plan to ``plan``; its layers are counted where its GPU is."""
        graph = order.folder / order.graph.onnx
        self._check(graph)
        request = Request(
            graph=str(graph), plan=str(plan), name=order.digest, options=order.options
        )
        decided = self._build(request, order.kept, progress)
        return Built(decided, count_layers(self, plan))

    def _check(self, path: Path) -> None:
        """Before the parser, which lets float64 and operator sets from the future pass."""
        try:
            require_clean(ir.load(path), self.graph_for)
        except E2EDeployError as error:
            raise BuildError(str(error)) from error

    def _build(self, request: Request, kept: Path, progress: Progress | None) -> dict[str, Any]:
        """Gives what was decided on the way. TensorRT's timings are kept beside the cache; TensorRT-RTX takes none."""
        if self.gpu is None:
            return build_apart(self.api.name, request, progress)
        folder = private_folder(kept.with_name("timing"))
        timings = folder / f"{self.kind}-{self.version}-{self.device}.cache"
        with whole_file(timings) as partial:
            request = replace(request, timings=str(timings), new_timings=str(partial))
            return build_apart(self.api.name, request, progress)


def trt_job(api: TrtApi, target: str, gpu: Gpu | None) -> TrtJob:
    """A plan of ``api`` for a target; ``gpu`` is the GPU at hand, for a library that builds only for it."""
    is_10 = api.name == "tensorrt" and api.version.startswith("10.")
    return TrtJob(
        kind=api.name,
        version=api.version,
        target=target,
        gpu=gpu,
        cuda=api.cuda_major,
        graph_for="tensorrt-10" if is_10 else api.name,
        api=api,
    )


def count_layers(job: TrtJob, plan: Path) -> dict[str, int]:
    """Only on the GPU it is for can a plan be read."""
    if job.gpu is None:
        return {}
    loaded = LoadedPlan(job.api, plan.read_bytes(), plan.name, "export again")
    try:
        return summarise_layers(loaded.information())
    finally:
        loaded.close()
