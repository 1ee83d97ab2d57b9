"""A graph in TensorRT's or TensorRT-RTX's hands: parsed from an ONNX file, built into a plan.

Knows files and bytes; knows nothing of bundles, manifests or caches.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.nvidia.trt_api import PORTABLE, TrtApi, log
from e2e_deploy.nvidia.trt_messages import (
    BUILD_REMEDIES,
    NO_KERNEL,
    BuildError,
    Remedy,
    explain,
    explain_parser,
    tidy,
)

Progress = Callable[[str, int, int], None]
"""(phase, step, steps), called as a build goes on; what it raises ends the build and is raised by it."""


DEFAULT_LEVEL = 3
"""The libraries' own; at 5 others saw builds of an hour and a half, and plans that were no faster."""


Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of an input."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        target: a key of TrtApi.targets for TensorRT-RTX; None for TensorRT, which builds for the GPU at hand.
        level: the builder's optimisation level, 0 (fast to build) to 5.
        workspace_bytes: most memory a kernel may use; the library's default if None.
        shapes: of every input with open sides.
    """

    target: str | None = None
    level: int = DEFAULT_LEVEL
    workspace_bytes: int | None = None
    shapes: dict[str, Bounds] = field(default_factory=dict)


def _monitor(module: Any, progress: Progress | None) -> Any:
    """An IProgressMonitor; ``raised`` holds what ``progress`` raised, which may not pass through the library."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.raised: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if progress is not None and self.raised is None:
                try:
                    progress(phase, step, self.steps.get(phase, 0))
                except BaseException as error:
                    self.raised = error
            return self.raised is None

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


class Network:
    """A parsed graph that can be built. Use it in a ``with`` block: its parts must go in one order.

    Args:
        api: the library.
        path: an ONNX file; its weights may lie beside it.
        name: written into the plan.

    Raises:
        BuildError: the parser refuses the graph; names the node and what to do.
        UnavailableError: the library needs a driver and there is none.

    Attributes:
        decomposed: attentions that may be split into products where no fused kernel takes them.
    """

    def __init__(self, api: TrtApi, path: Path, name: str = "") -> None:
        self._api = api
        self.decomposed = 0
        self._network: Any = None
        self._parser: Any = None
        self._builder = api.create("Builder")
        # TensorRT 10 has to be told; 11 and TensorRT-RTX know no other way and ignore it.
        typed = getattr(api.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        try:
            self._network = self._builder.create_network(0 if typed is None else 1 << int(typed))
            self._network.name = name
            self._parser = api.module.OnnxParser(self._network, api.logger)
            # By path, not by bytes: only so does it find weights in files beside the graph.
            if not self._parser.parse_from_file(str(path)):
                raise self._parser_error()
        except BaseException:
            self.close()
            raise

    def _parser_error(self) -> E2EDeployError:
        if not self._parser.num_errors:
            return BuildError(
                f"{self._api.title} refuses the graph: {tidy(self._api.take_errors())}"
            )
        error = self._parser.get_error(0)
        return explain_parser(
            self._api.title,
            code=error.code().name,
            desc=error.desc(),
            node=error.node_name(),
            operator=error.node_operator(),
        )

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape by name; -1 where it is dynamic."""
        tensors = [self._network.get_input(i) for i in range(self._network.num_inputs)]
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    def layers(self) -> dict[str, int]:
        """Number of ``layers`` without constants, of them by type of the first output, and of ``cast``.

        What the parser made of the graph, before the builder fuses it; a plan itself can be read on its GPU only.
        """
        module = self._api.module
        names = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
        counts: Counter[str] = Counter()
        for i in range(self._network.num_layers):
            layer = self._network.get_layer(i)
            if layer.type != module.LayerType.CONSTANT and layer.num_outputs:
                counts["layers"] += 1
                counts[names.get(layer.get_output(0).dtype.name, "int")] += 1
                counts["cast"] += layer.type == module.LayerType.CAST
        return dict(sorted(counts.items()))

    def _decompose_attention(self, *, only_fp32: bool) -> bool:
        """Let the builder split attention into products; whether there is any to split.

        In half precision the logits of such products are half precision too, which large models overflow: our exports
        attend in fp32 between casts, so only foreign graphs get there.

        Args:
            only_fp32: only those in float32, for which a fused kernel exists only where they stand between casts.
        """
        module = self._api.module
        kind = getattr(module.LayerType, "ATTENTION_INPUT", None)
        self.decomposed = 0
        for i in range(self._network.num_layers if kind is not None else 0):
            layer = self._network.get_layer(i)
            if layer.type != kind:
                continue
            layer.__class__ = module.IAttentionInputLayer  # the bindings give the base class
            if not only_fp32 or layer.get_input(0).dtype == module.DataType.FLOAT:
                layer.attention.decomposable = True
                self.decomposed += 1
        return self.decomposed > 0

    def _config(self, options: BuildOptions, monitor: Any, timing_cache: bytes | None) -> Any:
        module = self._api.module
        config = self._builder.create_builder_config()
        config.builder_optimization_level = options.level
        config.progress_monitor = monitor
        # For inspect; costs nothing at run time.
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
        config.clear_flag(module.BuilderFlag.TF32)  # fp32 stays fp32
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if self._api.builds_without_gpu:
            self._set_target(config, options.target or PORTABLE)
        elif options.target is not None:
            raise UsageError(f"{self._api.title} builds for the GPU at hand; it takes no target")
        else:
            config.set_timing_cache(config.create_timing_cache(timing_cache or b""), False)
        dynamic = {name for name, shape in self.inputs().items() if -1 in shape}
        if dynamic != set(options.shapes):
            raise UsageError(
                f"the graph's dynamic inputs are {sorted(dynamic)}, shapes were given for {sorted(options.shapes)}"
            )
        if dynamic:
            profile = self._builder.create_optimization_profile()
            for name, bounds in options.shapes.items():
                profile.set_shape(name, *bounds)
            config.add_optimization_profile(profile)
        return config

    def _set_target(self, config: Any, target: str) -> None:
        if target not in self._api.targets:
            raise UsageError(
                f"unknown target {target!r}; {self._api.title} builds for {', '.join(self._api.targets)}"
            )
        if target != PORTABLE:
            config.num_compute_capabilities = 1
            config.set_compute_capability(
                getattr(self._api.module.ComputeCapability, target.upper()), 0
            )

    def build(
        self,
        options: BuildOptions,
        progress: Progress | None = None,
        timing_cache: bytes | None = None,
    ) -> tuple[Any, bytes | None]:
        """Build a plan; what ``progress`` raises ends it at the builder's next step, and is raised.

        Returns:
            The plan, readable as a buffer, and the timing cache to keep, None where the library has none.

        Raises:
            UsageError: a target or shapes that cannot be used.
            BuildError: the builder gave up; says what it said and what to do.
        """
        monitor = _monitor(self._api.module, progress)
        config = self._config(options, monitor, timing_cache)
        self._api.take_errors()
        self._decompose_attention(only_fp32=True)
        plan = self._builder.build_serialized_network(self._network, config)
        said = self._api.take_errors()
        if plan is None and any(NO_KERNEL.search(message) for message in said):
            log.warning("no fused attention kernel fits; attention is split into products")
            if self._decompose_attention(only_fp32=False):
                plan = self._builder.build_serialized_network(self._network, config)
        if monitor.raised is not None:
            raise monitor.raised
        if plan is None:
            raise explain(
                f"{self._api.title} cannot build the plan",
                self._api.take_errors() or said,
                BUILD_REMEDIES,
                default=Remedy("", 'export with `engine="onnx"` to have a bundle without a plan'),
            )
        if self._api.builds_without_gpu:
            return plan, None
        return plan, bytes(memoryview(config.get_timing_cache().serialize()))

    def close(self) -> None:
        """Release everything, in the only order that is safe."""
        self._parser = None
        self._network = None
        self._builder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
