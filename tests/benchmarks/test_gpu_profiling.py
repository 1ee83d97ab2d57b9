"""The questions about a GPU, rehearsed on a CPU at their smallest; and that a rewritten graph computes the same."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from benchmarks.gpu.profiling import __main__ as command
from benchmarks.gpu.profiling import graphs, kernels
from benchmarks.gpu.profiling.hand_norms import with_hand_norms
from benchmarks.gpu.timing import Device
from e2e_deploy.export.onnx.for_cuda import rewrite_norms, tidy
from tests.export.onnx.test_for_cuda import graph_of, norm_nodes, run, written_out

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is asked for real")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """ask(what): the result file's content of a question at its smallest."""
    out = tmp_path_factory.mktemp("profiles")

    def run(*what):
        patch = pytest.MonkeyPatch()
        words = ["--out", out, "--work", out / "work", "--small", "--commit", "0123abc"]
        patch.setattr(sys, "argv", ["profiling", *map(str, words), "--what", *what])
        with pytest.raises(SystemExit) as stop, patch.context():
            command.main()
        patch.undo()
        assert not stop.value.code
        return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}

    return run


@pytest.mark.slow
def test_stages_and_norms(ask):
    results = ask("torch", "norms")
    stages = results["gpu_profile_torch"]["stages"]
    assert list(stages) == ["encoder", "unet", "decoder"]
    for found in [*stages.values(), results["gpu_profile_torch"]["diffusers_compiled"]]:
        assert found["by_kind_ms"]["convolution"] > 0
        assert sum(found["by_kind_ms"].values()) == pytest.approx(found["kernels_ms"])
    (shape,) = results["gpu_profile_norms"]["shapes"]
    assert shape["ways"]["eager"]["relative_error"] < 1e-6
    assert results["gpu_profile_norms"]["commit"] == "0123abc"


@pytest.mark.slow
def test_every_form_of_the_graph_computes_the_same(ask):
    rows = ask("onnxruntime")["gpu_profile_onnxruntime"]["variants"]
    assert rows["as exported"]["placement"]["on_cpu"] > 100
    assert rows["reduced norms"]["changed"]["norms"] == 63
    assert rows["reduced norms"]["rms_from_first"] < 1e-4
    assert rows["shuffles in nhwc"]["changed"]["shuffles"] == 3
    assert rows["shuffles in nhwc"]["rms_from_first"] == 0  # numbers are moved
    assert rows["fp16 attention"]["changed"]["attentions"] == 6
    for name in ("fused norms", "convolutions"):  # of a GPU alone
        assert "Failed to find kernel" in rows[name]["error"]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize", "convolution"),
        ("void cudnn::cnn::conv2d_grouped_direct_kernel<false, true>", "convolution"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float>", "normalisation"),
        ("triton_per_fused_convolution_div_native_group_norm_permute", "normalisation"),
        ("triton_poi_fused_native_group_norm_silu_3", "pointwise, with a normalisation"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("nvjet_sm90_hsh_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "product"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize64x128x8", "product"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__half>", "layout"),
        ("void op_generic_tensor_kernel<3, __half, (cudnnReduceTensorIndices_t)0>", "pointwise"),
        (
            "void onnxruntime::cuda::_UnaryElementWise<float, __half, onnxruntime::cuda::OP_Cast<",
            "cast",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
    ],
)
def test_a_kernel_is_known_by_its_name(kernel, kind):
    assert kernels.kind_of(kernel) == kind


def test_a_profile_counts_calls_and_milliseconds():
    x = torch.ones(64, 64)
    found = kernels.profiled(Device("cpu"), lambda value: value @ x, [x], rounds=3)
    assert found["top"][0]["kind"] == "product"
    assert found["top"][0]["calls"] == 1
    assert found["kernels_ms"] == pytest.approx(sum(row["ms"] for row in found["top"]), rel=0.1)


def test_norms_by_hand_are_the_norms_in_compiled_networks_too():
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=32, out_channels=64, temb_channels=None, groups=8).eval()
    network, count = with_hand_norms(torch.nn.Sequential(block))
    x = torch.randn(1, 32, 6, 10)
    with torch.no_grad():
        expected = block(x, None)
        for call in (network[0], torch.compile(network[0], backend="aot_eager", dynamic=False)):
            torch.testing.assert_close(call(x, None), expected, rtol=1e-5, atol=1e-5)
    assert count == 2
    assert isinstance(block.norm1, torch.nn.GroupNorm)  # the original is left alone


INTERPRETED = """
import torch, torch.nn.functional as F
from benchmarks.gpu.profiling.norm_kernel import group_norm_silu
torch.manual_seed(0)
for C, H, W, dtype, mean in (
    (32, 6, 8, torch.float16, 0),
    (320, 12, 9, torch.float16, 0),
    (128, 7, 16, torch.float16, 30),
    (64, 5, 3, torch.float32, 0),
):
    x = (torch.randn(1, C, H, W) + mean).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(C).to(dtype), torch.randn(C).to(dtype)
    made = group_norm_silu(x, weight, bias, 32, 1e-6)
    exact = F.silu(F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-6))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert (made.double() - exact).norm() / exact.norm() < torch.finfo(dtype).eps
"""


def test_the_norm_written_by_hand_in_tritons_interpreter():
    pytest.importorskip("triton", reason="needs triton, whose interpreter runs on a CPU")
    ran = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_the_product_is_asked_too(ask):
    (way,) = ask("product")["gpu_profile_backend_onnxruntime"]["ways"].values()
    assert way["runs_on"].startswith("CPU")
    assert way["host_to_host"]["p50_ms"] > 0
    assert way["parity"]["abs_rel"] < 0.005


def test_a_norm_of_a_sum_adds_it_itself(rng):
    """SkipGroupNorm has no kernel on a CPU: taken apart into its sums and GroupNorm, the graph is what it was."""
    shape = (1, 8, 4, 6)
    gamma, beta, bias = (rng.standard_normal(8).astype(np.float32) for _ in "gbc")
    norm, weights = norm_nodes(gamma, beta, shape, 4, 1e-5, silu=True, as_one=False)
    norm[0].input[0] = "s"
    norm[-1].output[0] = "activated"
    kernel = rng.standard_normal((8, 8, 1, 1)).astype(np.float16)
    weights |= {"kernel": kernel, "bias": bias.astype(np.float16)}
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["s"]),
        *norm,
        helper.make_node("Add", ["activated", "s"], ["y"]),
    ]
    model = graph_of(nodes, weights, shape)
    x = rng.standard_normal(shape).astype(np.float16)
    expected = run(model, x)
    rewrite_norms(model)
    assert graphs.skipped_norms(model) == 1
    tidy(model)
    assert [len(node.inputs) for node in model.graph if node.op_type == "Conv"] == [2]
    (skip,) = [node for node in model.graph if node.op_type == "SkipGroupNorm"]
    first, gamma_, beta_, second, added = skip.inputs
    whole = ir.node("Add", [first, added])
    total = ir.node("Add", [whole.outputs[0], second])
    plain = ir.node(
        "GroupNorm",
        [total.outputs[0], gamma_, beta_],
        {name: attribute.value for name, attribute in skip.attributes.items()},
        domain="com.microsoft",
    )
    for at, node in enumerate((whole, total, plain)):
        node.outputs[0].name = f"apart{at}"
    model.graph.insert_before(skip, [whole, total, plain])
    ir.convenience.replace_all_uses_with(skip.outputs[0], plain.outputs[0])
    ir.convenience.replace_all_uses_with(skip.outputs[1], total.outputs[0])
    tidy(model)
    np.testing.assert_allclose(run(written_out(model), x), expected, atol=1e-2, rtol=4e-3)
