"""What an export is asked for, checked before anything is loaded; needs no torch."""

from dataclasses import dataclass

from e2e_deploy.bundle.manifest import MAX_BATCH
from e2e_deploy.errors import UsageError
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL
from e2e_deploy.export.open_sides import check_sizes
from e2e_deploy.names import (
    ENGINE_CHOICES,
    GRAPH_KINDS,
    PRECISIONS,
    EngineChoice,
    GraphKind,
    Precision,
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """As the arguments of ``export_bundle``, which explains them.

    Raises:
        UsageError: nothing can be exported so, or one of them has no effect.
    """

    precision: Precision
    frame_sizes: tuple[tuple[int, int], ...]
    resolution: int | None
    pad: int
    batch: int
    graph: GraphKind
    dynamic: bool
    specialised: bool
    accept_accuracy: bool
    engine: EngineChoice
    targets: tuple[str, ...]
    level: int
    workspace_bytes: int | None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("graph", self.graph, GRAPH_KINDS),
            ("engine", self.engine, ENGINE_CHOICES),
        ):
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}; supported: {', '.join(known)}")
        if not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"`batch` is {self.batch}; a graph takes 1 to {MAX_BATCH} pictures")
        check_sizes(list(self.frame_sizes), kind=self.graph, dynamic=self.dynamic)
        self._check_plans()
        if self.accept_accuracy and self.precision != "int8":
            raise UsageError(f"`accept_accuracy` is for int8; {self.precision} has no exception")

    def _check_plans(self) -> None:
        if not 0 <= self.level <= 5:
            raise UsageError(f"`level` is {self.level}; builders take 0 to 5")
        if self.targets and self.engine in ("onnx", "tensorrt", "inductor"):
            has = {"onnx": "has none", "tensorrt": "builds for the GPU at hand"}.get(
                self.engine, "builds for the device at hand"
            )
            raise UsageError(
                f'`targets` only goes with `engine="tensorrt-rtx"`; `engine="{self.engine}"` {has}'
            )
        if self.precision == "int8" and (self.engine not in ("auto", "onnx") or self.targets):
            raise UsageError(
                "no plan is built from int8 graphs, which are for CPUs; leave out `engine` and "
                "`targets`"
            )
        if self.engine == "inductor":
            self._check_inductor()
        if self.engine == "onnx" and (
            self.level != DEFAULT_LEVEL or self.workspace_bytes is not None
        ):
            raise UsageError(
                '`level` and `workspace_bytes` are a plan\'s, and `engine="onnx"` has none'
            )

    def _check_inductor(self) -> None:
        if self.graph != "frame":
            raise UsageError(
                '`engine="inductor"` compiles what takes frames; leave out `graph="core"`, or take `engine="onnx"`'
            )
        if self.workspace_bytes is not None:
            raise UsageError(
                '`workspace_bytes` is for NVIDIA\'s builders and has no effect with `engine="inductor"`'
            )
