import pytest
import torch

from e2e_deploy.checkpoint import open_checkpoint
from e2e_deploy.errors import CheckpointError
from e2e_deploy.loading import load_model
from tests.small_checkpoint import edit_json, edit_weights

MODERN_TO_OLD = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


def weights_of(folder):
    model = load_model(open_checkpoint(folder))
    return model.state_dict() | {"context": model.context_1LC}


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(key):
    return lambda weights: {k: v for k, v in weights.items() if k != key}


def test_weights_stored_as_fp16_become_float32(small, small_copy):
    for part in ("unet", "vae", "text_encoder"):
        edit_weights(small_copy, part, lambda w: {k: v.half() for k, v in w.items()})
    stored, loaded = weights_of(small), weights_of(small_copy)
    assert {v.dtype for v in loaded.values()} == {torch.float32}
    for key, value in stored.items():
        torch.testing.assert_close(loaded[key], value, rtol=2e-3, atol=2e-3)


def test_the_fp16_variant_loads(small, small_copy):
    for file in small_copy.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    first, second = weights_of(small), weights_of(small_copy)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_attention_names_of_old_vaes(small, small_copy):
    def rename(weights):
        renamed = {}
        for key, value in weights.items():
            for modern, old in MODERN_TO_OLD.items():
                key = key.replace(modern, old)
            renamed[key] = value
        assert sum(".query." in key for key in renamed) == 4
        return renamed

    edit_weights(small_copy, "vae", rename)
    first, second = weights_of(small), weights_of(small_copy)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("unet", "conv_in.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_missing_weight_is_named(small_copy, part, key):
    edit_weights(small_copy, part, without(key))
    message = refused(small_copy)
    assert "lacks 1 weights" in message
    assert key in message
    assert part in message


def test_an_unknown_weight_is_named(small_copy):
    edit_weights(small_copy, "unet", lambda w: w | {"adapter.weight": torch.zeros(1)})
    assert "holds 1 weights its config.json knows nothing of" in refused(small_copy)
    assert "'adapter.weight'" in refused(small_copy)


@pytest.mark.parametrize(
    ("part", "key"),
    [("unet", "conv_in.weight"), ("vae", "encoder.mid_block.attentions.0.to_q.weight")],
)
def test_a_wrong_shape_is_named_with_both_shapes(small_copy, part, key):
    def widen(weights):
        return weights | {key: weights[key][..., None].contiguous()}

    file = edit_weights(small_copy, part, widen)
    message = refused(small_copy)
    assert str(file) in message
    assert key in message
    assert ", 1]" in message


def test_the_weights_of_a_four_channel_unet_under_an_eight_channel_config(small_copy):
    edit_weights(
        small_copy, "unet", lambda w: w | {"conv_in.weight": w["conv_in.weight"][:, :4].clone()}
    )
    assert "[16, 4, 3, 3], config.json asks for [16, 8, 3, 3]" in refused(small_copy)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet", {"down_block_types": ["NoSuchBlock", "DownBlock2D"]}),
        ("unet", {"block_out_channels": "wide"}),
        ("vae", {"block_out_channels": [8]}),
        ("text_encoder", {"hidden_size": 17}),
    ],
)
def test_configs_that_describe_no_model(small_copy, part, change):
    edit_json(small_copy / part / "config.json", **change)
    assert part.replace("_", " ") in refused(small_copy)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"beta_schedule": "sigmoid"}, "noise schedule"),
        ({"num_train_timesteps": "many"}, "noise schedule"),
        ({"prediction_type": "flow"}, "'flow'"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"clip_sample": True}, "sets clip_sample"),
        ({"thresholding": True}, "sets thresholding"),
    ],
)
def test_schedulers_without_a_single_step(small_copy, change, word):
    edit_json(small_copy / "scheduler/scheduler_config.json", **change)
    assert word in refused(small_copy)


def test_a_text_encoder_of_another_width(small_copy, tmp_path):
    edit_json(small_copy / "unet/config.json", cross_attention_dim=32)

    def widen(weights):
        return {
            k: torch.cat([v, v], dim=1).contiguous()
            if "attn2.to_k" in k or "attn2.to_v" in k
            else v
            for k, v in weights.items()
        }

    edit_weights(small_copy, "unet", widen)
    assert "gives 16 numbers a token, the unet expects 32" in refused(small_copy)


def test_a_missing_tokenizer(small_copy):
    (small_copy / "tokenizer/vocab.json").unlink()
    (small_copy / "tokenizer/tokenizer_config.json").unlink()
    assert "tokenizer" in refused(small_copy)
