"""Packages of AOTInductor: compiled of the checkpoint's module for the device at hand. Imports no torch by itself."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.cpu_targets import cpu_targets
from e2e_deploy.bundle.plan_files import package_metadata
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.export.engines.inductor_process import Recipe, compile_apart
from e2e_deploy.export.engines.job import Built, Job, Order
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL, BuildOptions, Progress
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.hardware import cpu_features, cpu_name
from e2e_deploy.packages import cpp_compiler as compiler
from e2e_deploy.packages import cuda_toolkit, require
from e2e_deploy.version import __version__

AUTOTUNED = 5
"""The level at which every kernel is chosen by trial; any other leaves the choice to inductor's rules."""

LINKED = "with torch's libstdc++"
"""How a package is linked; one in the cache that was linked in another way may crash as it is loaded."""

COMPILED_FOR = ("x86-64-v3", "armv8-a")
"""CPUs that code is compiled for. Not the best of each: x86-64-v4 took as long on a CPU that has it (e2e-tiny in fp32),
where convolutions and products are oneDNN's, which looks at the CPU when it runs."""


@dataclass(frozen=True, kw_only=True)
class InductorJob(Job):
    """A package for the GPU at hand, or for CPUs of the kind at hand.

    Attributes:
        cpu_target: what its code for the CPU is compiled for.
    """

    cpu_target: str

    def facts(self) -> dict[str, Any]:
        """The module is made by this package, and not of the ONNX graph."""
        return {"e2e-deploy": __version__, "cpu": self.cpu_target, "linked": LINKED}

    def require_level(self, level: int) -> None:
        """Refuse a level that changes nothing.

        Raises:
            UsageError: as said.
        """
        if level not in (DEFAULT_LEVEL, AUTOTUNED):
            raise UsageError(
                f"`level` is {level}; AOTInductor has {DEFAULT_LEVEL} and {AUTOTUNED}, which tries every kernel on the "
                "GPU"
            )
        if level == AUTOTUNED and self.gpu is None:
            raise UsageError(
                f"`level={level}` tries kernels on a GPU, and the package is for a CPU"
            )

    def fitted(self, options: BuildOptions) -> BuildOptions:
        """What of the options it takes: the level if it is one of its own."""
        autotuned = options.level == AUTOTUNED and self.gpu is not None
        level = AUTOTUNED if autotuned else DEFAULT_LEVEL
        return replace(options, level=level, workspace_bytes=None)

    def build(self, order: Order, plan: Path, progress: Progress | None) -> Built:
        """Write the package to ``plan``."""
        manifest, graph, opened = order.manifest, order.graph, order.checkpoint
        assert manifest is not None
        assert opened is not None
        recipe = Recipe(
            checkpoint=str(opened.path.absolute()),
            family=manifest.family,
            task=manifest.task,
            settings=manifest.settings,
            vae="" if opened.coder is None else str(opened.coder.path.absolute()),
            vae_part="both" if opened.coder is None else opened.coder.part,
            precision=manifest.precision,
            specialised=bool(manifest.passes),
            resolution=manifest.resolution,
            pad=manifest.pad,
            batch=graph.batch,
            frame_hw=graph.frame_hw,
            device="cuda" if self.gpu else "cpu",
            cpu_target=self.cpu_target,
            autotune=order.options.level == AUTOTUNED and self.gpu is not None,
            metadata=package_metadata(graph, order.digest),
        )
        compile_apart(recipe, plan, progress)
        return Built({"autotuned": recipe.autotune}, {})


def inductor_job(gpu: Gpu | None) -> tuple[InductorJob, str]:
    """What to build for the device at hand, and what there is to say of that.

    Args:
        gpu: the GPU at hand, None without one.

    Raises:
        UnavailableError: torch or a compiler is not here, or this CPU is not one it compiles for.
    """
    compiler()
    torch: Any = require("torch", "export")
    known = cpu_targets(cpu_features())
    cpu_target = next((name for name in COMPILED_FOR if name in known), "")
    version = str(torch.__version__)
    if gpu is not None and torch.cuda.is_available() and torch.version.cuda:
        require("triton", "export")
        cuda_toolkit()
        cuda = int(str(torch.version.cuda).partition(".")[0])
        return _job(version, gpu.target, gpu, cuda, cpu_target), ""
    if not cpu_target:
        raise UnavailableError(
            f"AOTInductor compiles here for {' and '.join(COMPILED_FOR)}, and this CPU ({cpu_name()}) is none of them"
        )
    if not hasattr(require("torch._inductor.config", "export").cpp, "march"):
        raise UnavailableError(
            f"torch {version} compiles for the very CPU it runs on, and for a named kind only from 2.13 on: "
            "install a newer one"
        )
    note = (
        f"AOTInductor builds for the CPU: torch {version} does not reach {gpu.name}" if gpu else ""
    )
    return _job(version, cpu_target, None, 0, cpu_target), note


def _job(version: str, target: str, gpu: Gpu | None, cuda: int, cpu_target: str) -> InductorJob:
    return InductorJob(
        kind="inductor", version=version, target=target, gpu=gpu, cuda=cuda, cpu_target=cpu_target
    )
