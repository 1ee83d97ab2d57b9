"""e2e-tiny built for real with TensorRT-RTX: both tasks, both precisions, fixed and open sides, every GPU it knows."""

import functools
import re
import shutil

import pytest

from e2e_deploy.export.engines.build import LEAST_OPSET
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.onnx.lint import TARGETS
from e2e_deploy.nvidia.trt_messages import BuildError
from tests.export.builds import PLAN, build, plan_for_all, plan_of
from tests.small_graphs import F16, write_attention

pytestmark = [pytest.mark.rtx, pytest.mark.slow]

HW = (72, 88)
"""Latents of 9x11, then 5x6 and 3x3: every level of the UNet is upsampled to an odd size."""
SIX = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
OPEN_SIDES = {"rgb": ((1, 3, 128, 128), (1, 3, 128, 192), (1, 3, 256, 256))}
TASKS = ("depth", "normals")
KERNEL = re.compile(rb"fmha::\w+_traits\b")
"""How TensorRT-RTX's plans name their fused attention: they hold its source."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """graph(task, precision, kind): folder of m.onnx, traced once; a frame graph is fixed, a core graph is open."""
    import torch

    from e2e_deploy.export.graph.precision import to_precision
    from e2e_deploy.export.graph.specialise import specialise
    from e2e_deploy.export.onnx import trace
    from e2e_deploy.frames import plan_frame
    from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
    from e2e_deploy.model.loading import load_model
    from e2e_deploy.model.single_step import FrameModel

    def body(task, precision, sizes_hw):
        model = load_model(open_checkpoint(bundled_checkpoint(task)))
        special = specialise(model, sizes_hw=sizes_hw)[0]
        return to_precision(special, precision).eval()

    @functools.cache
    def traced(task, precision, kind):
        folder = tmp_path_factory.mktemp(f"{task}-{precision}-{kind}")
        module = body(task, precision, [HW] if kind == "frame" else [])
        if kind == "frame":
            module = FrameModel(module, plan_frame(HW, 0, 8), (task,)).eval()
            example, options = torch.zeros(1, *HW, 3, dtype=torch.uint8), {"input_name": "frame"}
        else:
            example = torch.zeros(1, 3, 128, 192)
            options = {"input_name": "rgb", "multiple_of": 64}
        opset = max(TARGETS["tensorrt-rtx"].opset, LEAST_OPSET.get(precision, 0))
        traced = trace.trace(module, example, output_names=[task], opset=opset, **options)
        trace.save(traced, folder / "m.onnx")
        return folder

    return traced


KINDS = ("frame", "core")
BUILDS = [
    *((task, "fp16", kind, SIX) for task in TASKS for kind in KINDS),
    *((task, "fp32", kind, SIX[1:]) for task in TASKS for kind in KINDS),
    ("depth", "bf16", "frame", SIX[1:]),
]


@pytest.mark.parametrize(("task", "precision", "kind", "targets"), BUILDS)
def test_it_builds_for_every_gpu_at_once(rtx, graph, task, precision, kind, targets):
    """One build for all of them: the library gives up as a whole if one is beyond it."""
    path = graph(task, precision, kind) / "m.onnx"
    plan = plan_for_all(rtx, path, targets, shapes=OPEN_SIDES if kind == "core" else {})
    assert plan.startswith(PLAN)


@pytest.mark.parametrize(
    ("precision", "reason"),
    [("fp32", "FP32 GEMM is not supported"), ("bf16", "HW-specific datatypes: b16")],
)
def test_turing_is_refused_with_the_reason(rtx, graph, precision, reason):
    with pytest.raises(BuildError, match=f"{reason}.*leave out `targets="):
        plan_of(rtx, graph("depth", precision, "frame") / "m.onnx", target="sm75")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("target", "family"), [("sm75", b"Turing"), ("sm89", b"Ampere")])
def test_half_precision_attention_is_fused_and_sums_in_float32(rtx, graph, kind, target, family):
    """Sums in half precision are what the logits of SD2.1 overflow."""
    path = graph("depth", "fp16", kind) / "m.onnx"
    shapes = OPEN_SIDES if kind == "core" else {}
    plan, _ = plan_of(rtx, path, target=target, shapes=shapes)
    assert set(KERNEL.findall(plan)) == {b"fmha::" + family + b"_hmma_fp32_traits"}


def test_without_the_casts_it_would_sum_in_half_precision(rtx, tmp_path):
    """So the test above can fail."""
    plan, _ = plan_of(rtx, write_attention(tmp_path / "m.onnx", dtype=F16), target="sm89")
    assert set(KERNEL.findall(plan)) == {b"fmha::Ampere_hmma_fp16_traits"}


@pytest.mark.parametrize(("task", "precision"), [("depth", "fp16"), ("normals", "fp32")])
def test_what_the_entry_says(rtx, cache, graph, tmp_path, task, precision):
    import onnx

    folder = shutil.copytree(graph(task, precision, "frame"), tmp_path / "b")
    entry, data = build(folder, rtx, cache, target="sm89", precision=precision)
    assert data.startswith(PLAN)
    # TensorRT-RTX's parser knows the operator that our graphs attend with; its inputs are fp32 in both precisions.
    nodes = onnx.load(folder / "m.onnx").graph.node
    attentions = sum(node.op_type == "MultiHeadAttention" for node in nodes)
    assert entry.options["decomposed_attention"] == attentions > 0
    counted = entry.options["network"]
    kinds = [counted[kind] for kind in ("fp16", "fp32", "int") if kind in counted]
    assert sum(kinds) == counted["layers"] > 500
    assert ("fp16" in counted) == (precision == "fp16")
    assert build(folder, rtx, cache, target="sm89", precision=precision)[0].seconds == 0


def test_equal_inputs_give_equal_bytes(rtx, cache, graph, tmp_path):
    folder = shutil.copytree(graph("depth", "fp16", "frame"), tmp_path / "b")
    _, data = build(folder, rtx, cache, target="sm89")
    shutil.rmtree(cache.folder)
    entry, again = build(folder, rtx, PlanCache(cache.folder), target="sm89")
    assert entry.seconds > 0
    assert again == data
