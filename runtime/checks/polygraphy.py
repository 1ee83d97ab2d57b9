"""A bundle checked by NVIDIA's polygraphy: its ONNX Runtime runner on our graph, its comparator against our reference.

A second opinion that shares no code with runtime/checks/verify.py. Its metrics are not ours, so each limit is
expressed in one that is at least as strict.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.bundle.reference import in_batches
from e2e_deploy.errors import BundleError
from e2e_deploy.kinds import Kind
from e2e_deploy.limits import LIMITS
from e2e_deploy.packages import import_onnxruntime, require
from e2e_deploy.runtime.backends.onnxruntime.options import session_options
from e2e_deploy.system.interrupts import interruptible


@dataclass(frozen=True)
class PolygraphyVerdict:
    """What polygraphy says of one output of a graph, the worst of the stored frames.

    Attributes:
        frame_hw: (H, W).
        output: its name.
        metric: "L2 norm" of the difference (fp32), or "mean difference", absolute (half precision).
        value: of the metric.
        bound: what it must not exceed.
        passed: polygraphy's own verdict.
    """

    frame_hw: tuple[int, int]
    output: str
    metric: str
    value: float
    bound: float
    passed: bool

    def __str__(self) -> str:
        height, width = self.frame_hw
        verdict = "pass" if self.passed else "FAIL"
        found = f"{self.metric} {self.value:.2e}, limit {self.bound:.2e}"
        return f"{height}x{width}  {self.output}  polygraphy onnxrt  {found}  {verdict}"


def _bound(bundle: Bundle, kind: Kind, references: npt.NDArray[np.float32]) -> tuple[str, float]:
    """The metric polygraphy is asked for of an output, and its bound."""
    limit = LIMITS["onnxruntime", bundle.manifest.precision]
    if limit.relative is not None:
        # The relative error is a ratio of norms; the frame with the smallest norm is the strictest.
        norms = np.linalg.norm(references.reshape(len(references), -1).astype(np.float64), axis=1)
        return "L2 norm", limit.relative * float(norms.min())
    if kind.form == "distance":
        assert limit.abs_rel is not None
        return "mean difference", limit.abs_rel  # it is at most 1, and nothing is aligned
    if kind.form == "picture":
        assert limit.mean_abs is not None
        return "mean difference", limit.mean_abs
    assert limit.mean_angle_deg is not None
    # Components of a unit vector differ by less than its angle.
    return "mean difference", math.radians(limit.mean_angle_deg)


def _session(bundle: Bundle, graph: GraphEntry) -> Any:
    """The graph on the CPU with the options our own backend has: only so do int8 sums not saturate everywhere."""
    ort = import_onnxruntime()
    return ort.InferenceSession(
        str(bundle.file(graph.onnx)),
        session_options(ort, bundle, on_cpu=True),
        providers=["CPUExecutionProvider"],
    )


def _outputs(
    bundle: Bundle, graph: GraphEntry, batches: list[npt.NDArray[Any]]
) -> list[dict[str, npt.NDArray[Any]]]:
    """What polygraphy's runner makes of every batch.

    Raises:
        BundleError: the graph was changed, or does not run.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner

    taken = graph.inputs[0].name
    try:
        runner = OnnxrtRunner(lambda: _session(bundle, graph), name="onnxrt")
        with bundle.unchanged(graph.onnx, *bundle.weights_of(graph.onnx)), runner:
            return [
                {name: np.array(value) for name, value in runner.infer({taken: batch}).items()}
                for batch in batches
            ]
    except BundleError:
        raise
    except Exception as error:
        # ONNX Runtime's and polygraphy's exceptions share no public base class.
        said = " ".join(str(error).split())
        raise BundleError(f"polygraphy cannot run {graph.onnx}: {said}") from error


def _compared(
    outputs: list[dict[str, npt.NDArray[Any]]],
    references: list[dict[str, npt.NDArray[Any]]],
    metric: str,
    bound: float,
) -> tuple[list[float], bool]:
    """The metric of every batch, and polygraphy's verdict over all."""
    from polygraphy.comparator import Comparator, L2CompareFunc, RunResults, SimpleCompareFunc

    if metric == "L2 norm":
        compare, field = L2CompareFunc(l2_threshold=bound), "l2_norm"
    else:
        compare = SimpleCompareFunc(atol=bound, rtol=0.0, check_error_stat="mean")
        field = "mean_absdiff"
    results = RunResults()
    results.add(outputs, runner_name="onnxrt")
    results.add(references, runner_name="reference")
    accuracy = Comparator.compare_accuracy(results, compare_func=compare)
    found = [
        float(getattr(comparison, field))
        for result in accuracy.lst
        for iterations in result.values()
        for outputs_of_frame in iterations
        for comparison in outputs_of_frame.values()
    ]
    return found, bool(accuracy)


def _check(bundle: Bundle, graph: GraphEntry) -> list[PolygraphyVerdict]:
    from polygraphy.logger import G_LOGGER

    frames, references = bundle.reference(graph)
    batches = in_batches(len(frames), graph.batch)
    verdicts = []
    with G_LOGGER.verbosity():  # it prints to stdout, where results go
        outputs = _outputs(bundle, graph, [frames[indices] for indices in batches])
        for kind in bundle.manifest.kinds:
            name = kind.output
            metric, bound = _bound(bundle, kind, references[name])
            given = [{name: each[name]} for each in outputs]
            expected = [{name: references[name][indices]} for indices in batches]
            found, passed = _compared(given, expected, metric, bound)
            # np.max keeps NaN, max does not.
            worst = float(np.max(found)) if len(found) == len(batches) else math.nan
            passed = passed and not math.isnan(worst)
            verdicts.append(PolygraphyVerdict(graph.frame_hw, name, metric, worst, bound, passed))
    return verdicts


def check_with_polygraphy(bundle: Bundle) -> list[PolygraphyVerdict]:
    """Run every stored reference frame of every graph with polygraphy on the CPU and compare there.

    Raises:
        UnavailableError: polygraphy is not installed.
        BundleError: the reference cannot be read, or ONNX Runtime refuses the graph.
    """
    require("polygraphy", "export")
    import_onnxruntime()  # before polygraphy does
    return interruptible(
        lambda: [verdict for graph in bundle.manifest.graphs for verdict in _check(bundle, graph)]
    )
