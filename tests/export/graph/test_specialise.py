import copy
import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.graph.attention import (
    ConstantKeysAttention,
    SingleHeadAttention,
    TwoTokenAttention,
    attend,
)
from e2e_deploy.export.graph.passes.layers import UpsampleConv
from e2e_deploy.export.graph.passes.unet import attend_to_constant
from e2e_deploy.export.graph.specialise import (
    PASSES,
    UPSAMPLING,
    SpecialisedModel,
    count_macs,
    count_parameters,
    specialise,
)
from tests.export.random_models import SD2_ALPHA_BAR, random_model, random_rgb, randomise

RGB = random_rgb(2, 3, 24, 16)
LIMIT = 1e-9
THREE_LEVELS = {
    "block_out_channels": (64, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 2, 2),
}

VARIANTS = {
    "marigold v1-1": {},
    "sd2": {"alpha_bar": SD2_ALPHA_BAR, "family": "e2e-ft"},
    "epsilon": {"alpha_bar": SD2_ALPHA_BAR, "prediction_type": "epsilon"},
    "sample": {"prediction_type": "sample"},
    "normals": {"task": "normals"},
    "normals unclipped": {"task": "normals", "family": "e2e-ft", "alpha_bar": SD2_ALPHA_BAR},
    "one token": {"tokens": 1},
    "three tokens": {"tokens": 3},
    "77 tokens": {"tokens": 77},
    "4 channels": {"unet": {"in_channels": 4}},
    "no quant_conv": {"vae": {"use_quant_conv": False}},
    "no post_quant_conv": {"vae": {"use_post_quant_conv": False}},
    "no 1x1 convolutions": {"vae": {"use_quant_conv": False, "use_post_quant_conv": False}},
    "1x1 projection": {"unet": {"use_linear_projection": False}},
    "upcast attention": {"unet": {"upcast_attention": True}},
    "no mid attention": {"vae": {"mid_block_add_attention": False}},
    "time activation": {"unet": {"time_embedding_act_fn": "silu", "resnet_skip_time_act": True}},
    "only cross attention": {"unet": {"only_cross_attention": (True, False)}},
    "dropout": {"unet": {"dropout": 0.5}},
    "layers removed": {"unet": {"layers_per_block": (2, 1)}},
    "small coder": {"tiny": {}, "alpha_bar": SD2_ALPHA_BAR, "prediction_type": "epsilon"},
    "small coder, one channel": {"tiny": {"out_channels": 1}},
    "small coder, normals": {"tiny": {"upsample_fn": "bilinear"}, "task": "normals"},
    "small coder, silu": {"tiny": {"act_fn": "silu", "decoder_block_out_channels": (16, 16)}},
    "small encoder": {"tiny": {}, "part": "encoder", "task": "normals"},
    "small decoder": {"tiny": {}, "part": "decoder", "alpha_bar": SD2_ALPHA_BAR},
    "5x5 ends, three levels": {
        "unet": {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3,
            "up_block_types": ("CrossAttnUpBlock2D",) * 3,
            "attention_head_dim": (1, 2, 4),
            "conv_in_kernel": 5,
            "conv_out_kernel": 5,
        },
    },
}


@functools.cache
def original(variant):
    model = random_model(**VARIANTS[variant])
    with torch.no_grad():
        return model, model(RGB)


def distance(model, expected, rgb=RGB):
    with torch.no_grad():
        result = model(rgb)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_random_models_show_errors(variant):
    _model, expected = original(variant)
    inside = (expected > 0) & (expected < 1) if expected.shape[1] == 1 else expected.abs() < 1
    assert inside.float().mean() > 0.5
    assert expected.std() > 0.05


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pass_alone_is_exact(variant, step):
    model, expected = original(variant)
    special = SpecialisedModel(copy.deepcopy(model))
    with torch.no_grad():
        step.run(special)
    assert distance(special, expected) < LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_passes_are_exact(variant):
    model, expected = original(variant)
    special, reports = specialise(copy.deepcopy(model))
    assert distance(special, expected) < LIMIT
    assert [report.name for report in reports] == [step.name for step in PASSES]
    assert (special.latent_scale, special.output_scale) == (1.0, 1.0)


@functools.cache
def counted():
    return specialise(copy.deepcopy(original("sd2")[0]), macs_hw=(24, 16))


def test_reports_add_up():
    special, reports = counted()
    assert reports[-1].parameters_after == count_parameters(special)
    assert reports[-1].macs_after == count_macs(special, (24, 16))[""]
    for one, two in itertools.pairwise(reports):
        assert one.parameters_after == two.parameters_before
        assert one.macs_after == two.macs_before
    _special, uncounted = specialise(copy.deepcopy(original("sd2")[0]))
    assert {report.macs_before for report in uncounted} == {None}


@settings(max_examples=15, deadline=None)
@given(st.permutations(PASSES), st.integers(2, len(PASSES)), st.sampled_from(sorted(VARIANTS)))
def test_passes_are_exact_in_any_order_and_company(order, count, variant):
    model, expected = original(variant)
    special = SpecialisedModel(copy.deepcopy(model))
    with torch.no_grad():
        for step in order[:count]:
            step.run(special)
    assert distance(special, expected) < LIMIT


def test_what_is_gone():
    special, reports = counted()
    names = [name for name, _ in (*special.named_parameters(), *special.named_buffers())]
    for gone in ("time", "attn2.to_k", "attn2.to_v", "attn2.to_q", "quant_conv", "context"):
        assert not [name for name in names if gone in name]
    assert special.unet.conv_in.weight.shape[1] == 4
    assert special.vae.encoder.conv_out.weight.shape[0] == 4
    assert special.vae.decoder.conv_out.weight.shape[0] == 1
    assert not any(p.requires_grad for p in special.parameters())
    by_name = {report.name: report for report in reports}
    for name in (
        "time embedding",
        "zero latent",
        "empty prompt",
        "latent scales",
        "single-head attention",
    ):
        assert by_name[name].parameters_after < by_name[name].parameters_before
        assert by_name[name].macs_after < by_name[name].macs_before
    # 9 taps at four pixels become four times 4 taps: two such layers, 64 to 64, at 12x8 and 6x4 before they grow.
    upsampling = by_name[UPSAMPLING.name]
    assert upsampling.macs_before - upsampling.macs_after == 20 * 64 * 64 * (12 * 8 + 6 * 4)
    assert upsampling.parameters_after - upsampling.parameters_before == 2 * (7 * 64 * 64 + 3 * 64)


def test_upsampling_is_left_out_on_request():
    special, reports = specialise(copy.deepcopy(original("sd2")[0]), upsample=False)
    assert UPSAMPLING.name not in [report.name for report in reports]
    assert not [m for m in special.modules() if isinstance(m, UpsampleConv)]
    assert distance(special, original("sd2")[1]) < LIMIT


def test_training_mode_changes_nothing():
    model, expected = original("dropout")
    special, _ = specialise(copy.deepcopy(model), macs_hw=(24, 16))
    assert distance(special.train(), expected) < LIMIT


def test_float32_stays_float32():
    model, expected = original("sd2")
    special, _ = specialise(copy.deepcopy(model).float())
    assert {t.dtype for t in special.state_dict().values()} == {torch.float32}
    assert distance(special, expected.float(), RGB.float()) < 1e-4


def test_macs_are_those_of_a_real_run():
    special = SpecialisedModel(copy.deepcopy(original("sd2")[0]))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        special(RGB[:1])  # the CPU's fused attention is no operator that the counter knows
    by_part = count_macs(special, (24, 16))
    assert by_part[""] == counter.get_total_flops() // 2
    assert by_part["unet"] + by_part["vae.encoder"] + by_part["vae.decoder"] <= by_part[""]
    assert by_part["vae.encoder.conv_in"] == 24 * 16 * 9 * 3 * 16


@pytest.mark.parametrize(
    ("setting", "value"),
    [("class_embed_type", "timestep"), ("resnet_time_scale_shift", "scale_shift")],
)
def test_a_unet_with_other_uses_of_time_is_refused(setting, value):
    model = random_model(unet={setting: value})
    with pytest.raises(CheckpointError, match=setting):
        specialise(model)


def test_a_unet_with_time_in_its_norms_is_refused():
    blocks = {"down_block_types": ("KDownBlock2D",) * 2, "up_block_types": ("KUpBlock2D",) * 2}
    with pytest.raises(CheckpointError, match="norms"):
        specialise(random_model(unet=blocks))


def test_sizes_must_fit_the_stride():
    with pytest.raises(UsageError, match="multiples of 4"):
        specialise(random_model(), macs_hw=(24, 18))
    special, _ = specialise(random_model())
    with pytest.raises(UsageError, match="specialise for this size"), torch.no_grad():
        special(random_rgb(1, 3, 22, 16))


@pytest.mark.parametrize(
    ("size_hw", "doubled"),
    # the VAE halves once and always doubles; the UNet's levels are 16x24 8x12, 11x12 6x6, 10x12 5x6, 13x9 7x5 and so on
    [
        ((32, 48), 3),
        ((22, 24), 2),
        ((20, 24), 2),
        ((26, 18), 1),
        ((36, 48), 2),
        ((34, 48), 1),
        ((44, 48), 2),
        ((23, 29), 1),
    ],
)
def test_levels_of_odd_size_are_exact_and_keep_their_upsampling(size_hw, doubled):
    """Diffusers upsamples to the size of the skip connection; only exactly doubled levels convolve first."""
    model, rgb = random_model(unet=THREE_LEVELS), random_rgb(2, 3, *size_hw)
    with torch.no_grad():
        expected = model(rgb)
    special, _ = specialise(model, sizes_hw=[size_hw], macs_hw=size_hw)
    assert distance(special, expected, rgb) < LIMIT
    assert len([m for m in special.modules() if isinstance(m, UpsampleConv)]) == doubled


def test_one_body_serves_several_sizes():
    model, sizes = random_model(unet=THREE_LEVELS), [(32, 48), (22, 24), (20, 26)]
    pictures = [random_rgb(1, 3, *size) for size in sizes]
    with torch.no_grad():
        expected = [model(rgb) for rgb in pictures]
    special, _ = specialise(model, sizes_hw=sizes)
    assert len([m for m in special.modules() if isinstance(m, UpsampleConv)]) == 1
    for rgb, result in zip(pictures, expected, strict=True):
        assert distance(special, result, rgb) < LIMIT


@pytest.mark.parametrize(
    ("heads", "width", "tokens", "kind"),
    [
        (3, 8, 2, TwoTokenAttention),
        (3, 1, 2, TwoTokenAttention),
        (3, 8, 1, ConstantKeysAttention),
        # No checkpoint that loads today: GenPercept stores a prompt of 77 tokens, StableNormal encodes one.
        (3, 8, 77, ConstantKeysAttention),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_attention_to_a_constant(heads, width, tokens, kind, bias):
    from diffusers.models.attention_processor import Attention

    generator = torch.Generator().manual_seed(0)
    attention = Attention(
        40, cross_attention_dim=24, heads=heads, dim_head=width, bias=bias, out_bias=bias
    )
    randomise(attention.double(), generator)
    context = 3 * torch.randn(tokens, 24, generator=generator, dtype=torch.float64)
    hidden = torch.randn(2, 7, 40, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        special = attend_to_constant(attention, context)
        expected = attention(hidden, context.expand(2, -1, -1))
        error = (special(hidden) - expected).abs().max() / expected.abs().max()
    assert type(special) is kind
    assert error < 1e-12
    if tokens < 24:  # beyond, keys and values are more than the matrices that make them
        assert count_parameters(special) < count_parameters(attention)


def test_attention_that_normalises_its_context_is_refused():
    from diffusers.models.attention_processor import Attention

    attention = Attention(8, cross_attention_dim=8, cross_attention_norm="layer_norm")
    with pytest.raises(CheckpointError, match="without specialisation"):
        attend_to_constant(attention, torch.zeros(2, 8, dtype=torch.float64))


def test_explicit_attention_equals_fused_and_survives_large_logits():
    query, key, value = (random_rgb(2, 3, 5, 8, seed=i) for i in range(3))
    torch.testing.assert_close(
        attend(query, key, value, fused=False), attend(query, key, value, fused=True)
    )
    # 200 * 200 * 8 is 320 000, beyond fp16's 65 504
    large = attend(200 * query.half().sign(), 200 * key.half().sign(), value.half(), fused=False)
    assert large.dtype == torch.float16
    assert large.isfinite().all()


def test_the_vae_attention_shrinks():
    kinds = [type(m) for m in counted()[0].vae.modules()]
    assert kinds.count(SingleHeadAttention) == 2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99)
)
def test_upsampling_then_convolving(height, width, channels_in, channels_out, seed):
    conv = torch.nn.Conv2d(channels_in, channels_out, 3, padding=1)
    randomise(conv, torch.Generator().manual_seed(seed))
    small = random_rgb(2, channels_in, height, width, seed=seed)
    with torch.no_grad():
        expected = conv(F.interpolate(small, scale_factor=2.0, mode="nearest"))
        torch.testing.assert_close(UpsampleConv(conv)(small), expected, rtol=0, atol=1e-12)


def test_the_graph_holds_what_the_module_holds():
    import onnx_ir as ir
    import onnxruntime

    from e2e_deploy.export.onnx.trace import trace, weight_bytes

    model, expected = original("sd2")
    special, reports = specialise(copy.deepcopy(model).float())
    rgb = RGB[:1].float()
    graph = trace(special, rgb, input_name="rgb", output_names=["depth"])
    # the tracer added no constant that matters: nothing is left of the time path, the zeros or the prompt
    assert abs(weight_bytes(graph) - 4 * reports[-1].parameters_after) < 4000
    assert not {"Gemm", "Sin", "Resize", "Dropout"} & {node.op_type for node in graph.graph}
    assert not [node.name for node in graph.graph if "time" in node.name]
    session = onnxruntime.InferenceSession(
        ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"rgb": rgb.numpy()})
    assert np.abs(result - expected[:1].numpy()).max() < 1e-4
