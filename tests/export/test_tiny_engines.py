"""e2e-tiny built for real with TensorRT-RTX: both tasks, both precisions, fixed and open sides, every GPU it knows."""

import functools
import shutil

import pytest

from e2e_deploy.export.engine_cache import EngineCache
from e2e_deploy.trt_messages import BuildError
from tests.export.builds import PLAN, build, plan_for_all, plan_of

pytestmark = [pytest.mark.rtx, pytest.mark.slow]

HW = (64, 64)
SIX = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
OPEN_SIDES = {"rgb": ((1, 3, 128, 128), (1, 3, 128, 192), (1, 3, 256, 256))}
TASKS, PRECISIONS = ("depth", "normals"), ("fp16", "fp32")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """graph(task, precision, kind): folder of m.onnx, traced once; a frame graph is fixed, a core graph is open."""
    import torch

    from e2e_deploy.checkpoint import open_checkpoint
    from e2e_deploy.export import onnx_export
    from e2e_deploy.export.precision import to_precision
    from e2e_deploy.export.specialise import specialise
    from e2e_deploy.frames import plan_frame
    from e2e_deploy.loading import load_model
    from e2e_deploy.model import FrameModel
    from e2e_deploy.tiny import bundled_checkpoint

    @functools.cache
    def body(task, precision):
        model = load_model(open_checkpoint(bundled_checkpoint(task)))
        return model.stride, to_precision(specialise(model)[0], precision).eval()

    @functools.cache
    def traced(task, precision, kind):
        folder = tmp_path_factory.mktemp(f"{task}-{precision}-{kind}")
        stride, module = body(task, precision)
        if kind == "frame":
            module = FrameModel(module, plan_frame(HW, max(HW), stride), task).eval()
            example, options = torch.zeros(1, *HW, 3, dtype=torch.uint8), {"input_name": "frame"}
        else:
            example = torch.zeros(1, 3, 128, 192)
            options = {"input_name": "rgb", "multiple_of": 64}
        onnx_export.save(
            onnx_export.trace(module, example, output_name=task, **options), folder / "m.onnx"
        )
        return folder

    return traced


# What TensorRT-RTX 1.7 makes of each: None builds. Open sides with attention spelled out end in its std::bad_alloc.
OUT_OF_MEMORY = r"ran out of memory.*or fix the sides of an open graph"
BUILDS = [
    ("depth", "fp16", "frame", None),
    ("normals", "fp16", "frame", None),
    ("depth", "fp32", "frame", None),
    ("normals", "fp32", "frame", None),
    ("depth", "fp16", "core", OUT_OF_MEMORY),
    ("normals", "fp32", "core", OUT_OF_MEMORY),
]


@pytest.mark.parametrize(("task", "precision", "kind", "refused"), BUILDS)
def test_it_builds_for_five_gpus_at_once(rtx, graph, task, precision, kind, refused):
    """One build for all of them: the library gives up as a whole if one is beyond it."""
    path = graph(task, precision, kind) / "m.onnx"
    shapes = OPEN_SIDES if kind == "core" else {}
    if refused is None:
        assert plan_for_all(rtx, path, SIX[1:], shapes=shapes).startswith(PLAN)
        return
    with pytest.raises(BuildError, match=refused):
        plan_for_all(rtx, path, SIX[1:], shapes=shapes)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_turing_is_refused_with_the_reason(rtx, graph, task, precision):
    """The logits of attention are fp32 products, which no kernel for sm75 takes."""
    with pytest.raises(BuildError, match=r"FP32 GEMM is not supported.*leave out --target sm75"):
        plan_of(rtx, graph(task, precision, "frame") / "m.onnx", target="sm75")


@pytest.mark.parametrize(("task", "precision"), [("depth", "fp16"), ("normals", "fp32")])
def test_what_the_entry_says(rtx, cache, graph, tmp_path, task, precision):
    import onnx

    folder = shutil.copytree(graph(task, precision, "frame"), tmp_path / "b")
    entry, data = build(folder, rtx, cache, target="sm89", precision=precision)
    assert data.startswith(PLAN)
    # TensorRT-RTX's parser knows the operator that fp32 graphs attend with, and no kernel fuses it in fp32.
    nodes = onnx.load(folder / "m.onnx").graph.node
    attentions = sum(node.op_type == "MultiHeadAttention" for node in nodes)
    assert (attentions > 0) == (precision == "fp32")
    assert entry.options["decomposed_attention"] == attentions
    counted = entry.options["network"]
    kinds = [counted[kind] for kind in ("fp16", "fp32", "int") if kind in counted]
    assert sum(kinds) == counted["layers"] > 500
    assert ("fp16" in counted) == (precision == "fp16")
    assert build(folder, rtx, cache, target="sm89", precision=precision)[0].seconds == 0


def test_equal_inputs_give_equal_bytes(rtx, cache, graph, tmp_path):
    folder = shutil.copytree(graph("depth", "fp16", "frame"), tmp_path / "b")
    _, data = build(folder, rtx, cache, target="sm89")
    shutil.rmtree(cache.folder)
    entry, again = build(folder, rtx, EngineCache(cache.folder), target="sm89")
    assert entry.seconds > 0
    assert again == data
