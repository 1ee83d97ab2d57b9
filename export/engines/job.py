"""One plan to build: of which kind and for what device. What differs per kind is a module a kind, ``*_job.py``."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.manifest import GraphEntry, Manifest
from e2e_deploy.export.engines.tensorrt import BuildOptions, Progress
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.names import PLAN_TITLES, PlanKind
from e2e_deploy.nvidia.cuda_driver import Gpu


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a plan is built of.

    Attributes:
        folder: of the bundle, whose ONNX graphs are there.
        graph: one of them.
        digest: graph_digest of it; it is written into the plan.
        options: how it is built.
        manifest: of the bundle; not read by a builder that reads the ONNX graph.
        checkpoint: what the bundle was exported from; None where no builder reads it.
        kept: folder of the cache, for what else a builder keeps.
    """

    folder: Path
    graph: GraphEntry
    digest: str
    options: BuildOptions
    manifest: Manifest | None
    checkpoint: Checkpoint | None
    kept: Path


@dataclass(frozen=True)
class Built:
    """What is known of a plan besides its bytes.

    Attributes:
        decided: on the way, for the manifest's options.
        layers: by kind and precision; empty where nothing can read them.
    """

    decided: dict[str, Any]
    layers: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One plan to build for every graph: of which kind, for what.

    Attributes:
        kind: of plan.
        version: of the library that builds it; no other loads it.
        target: what it runs on, as PlanEntry has it.
        gpu: the GPU at hand, where it is built for that alone.
        cuda: major version of CUDA that the driver must support; 0 if unknown, or for a CPU.
        graph_for: whose ONNX graphs it reads, a key of lint's TARGETS; empty where it reads none.
    """

    kind: PlanKind
    version: str
    target: str
    gpu: Gpu | None
    cuda: int
    graph_for: str = ""

    @property
    def title(self) -> str:
        """The kind for people."""
        return PLAN_TITLES[self.kind]

    @property
    def gpu_name(self) -> str:
        """Name of the GPU it is built for; empty where it is built for several, or for a CPU."""
        return self.gpu.name if self.gpu else ""

    @property
    def device(self) -> str:
        """What the plan is for, as part of a file name."""
        words = f"{self.gpu_name} {self.target}" if self.gpu else ""
        return re.sub(r"[^A-Za-z0-9]+", "-", words) or self.target

    def facts(self) -> dict[str, Any]:
        """What decides a plan besides the graph, the options and what a Job is made of."""
        return {}

    def fitted(self, options: BuildOptions) -> BuildOptions:
        """What of the options this kind takes: all."""
        return options

    @abstractmethod
    def build(self, order: Order, plan: Path, progress: Progress | None) -> Built:
        """Write the plan to ``plan``.

        Raises:
            E2EDeployError: the graph is not fit for the library, or the builder gave up.
            OSError: the disk is full.
            KeyboardInterrupt: Ctrl-C.
        """
