import json
import os
import shutil

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
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
        ("unet", {"act_fn": 3}),
        ("unet", {"norm_num_groups": 7}),
        ("unet", {"freq_shift": "x"}),
        ("unet", {"downsample_padding": 9}),
        ("vae", {"block_out_channels": [8]}),
        ("vae", {"norm_num_groups": 5}),
        ("vae", {"act_fn": "x"}),
        ("text_encoder", {"hidden_size": 17}),
        ("text_encoder", {"hidden_act": ["gelu"]}),
        ("text_encoder", {"attention_dropout": "half"}),
    ],
)
def test_configs_that_describe_no_model(small_copy, part, change):
    edit_json(small_copy / part / "config.json", **change)
    message = refused(small_copy)
    assert f"{part}/config.json" in message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"beta_schedule": "sigmoid"}, "noise schedule"),
        ({"beta_schedule": ["linear"]}, "noise schedule"),
        ({"trained_betas": 0.5}, "noise schedule"),
        ({"trained_betas": [0.1, 0.2]}, "noise schedule"),
        ({"trained_betas": [0.0] * 1000}, "1 of the signal's power is left"),
        ({"num_train_timesteps": 1, "beta_start": 1e-9}, "1 of the signal's power is left"),
        ({"prediction_type": "flow"}, "'flow'"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"clip_sample": True}, "sets clip_sample"),
        ({"clip_sample": None}, "is silent, and so DDIMScheduler sets clip_sample"),
        ({"thresholding": True}, "sets thresholding"),
    ],
)
def test_schedulers_without_a_single_step(small_copy, change, word):
    edit_json(small_copy / "scheduler/scheduler_config.json", **change)
    assert word in refused(small_copy)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_a_scheduler_without_betas(small_copy, name):
    """Flow matching takes x0 = x_T - v; DDIM's default betas would make 157 times that of it, in silence."""
    getattr(diffusers, name)().save_pretrained(small_copy / "scheduler")
    assert f"is a {name}'s, which has no betas" in refused(small_copy)


def test_infinity_as_diffusers_writes_it(small, small_copy):
    file = small_copy / "scheduler/scheduler_config.json"
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(json.loads(file.read_text()))
    scheduler.save_pretrained(file.parent)
    assert "-Infinity" in file.read_text()
    first, second = (load_model(open_checkpoint(each)) for each in (small, small_copy))
    assert first.x0_from_output == second.x0_from_output
    edit_json(file, beta_end=float("nan"))
    assert "beta_end is nan" in refused(small_copy)


def test_a_null_is_the_libraries_default(small, small_copy):
    file = small_copy / "vae/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": None}))
    first, second = (load_model(open_checkpoint(each)) for each in (small, small_copy))
    assert first.scaling_factor == second.scaling_factor == 0.18215


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "OfTheirOwn"])
def test_only_what_the_named_scheduler_clips_is_clipped(small, small_copy, name):
    edit_json(
        small_copy / "scheduler/scheduler_config.json",
        _class_name=name,
        clip_sample=False if name == "OfTheirOwn" else None,
    )
    first, second = (load_model(open_checkpoint(each)) for each in (small, small_copy))
    assert first.x0_from_output == second.x0_from_output


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


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("unet", "conv_in.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_is_no_number_is_named(small_copy, part, key, value, dtype):
    def damage(weights):
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        weights[key].view(-1)[[0, -1]] = float(value)
        return weights

    file = edit_weights(small_copy, part, damage)
    assert f"{file}: {key!r} holds 2 values that are NaN or infinite" in refused(small_copy)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_change_after_they_were_checked(small_copy, part):
    checkpoint = open_checkpoint(small_copy)
    edit_weights(small_copy, part, lambda w: {k: v.flatten() for k, v in w.items()})
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        load_model(checkpoint)
    edit_weights(small_copy, part, lambda w: {"other." + k: v for k, v in w.items()})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(checkpoint)


def test_finite_weights_whose_sum_overflows_are_loaded(small_copy):
    def enlarge(weights):
        weights["conv_out.bias"][:] = 3e38
        return weights

    edit_weights(small_copy, "unet", enlarge)
    assert weights_of(small_copy)["unet.conv_out.bias"].tolist() == pytest.approx([3e38] * 4)


def into_shards(folder, part, *, variant=""):
    """Rewrite a part in three shards with an index, in the layout of diffusers and transformers."""
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    file = folder / part / f"{stem}.safetensors"
    tensors, table = load_file(file), {}
    for n in (1, 2, 3):
        keys = sorted(tensors)[n - 1 :: 3]
        name = f"{stem}-0000{n}-of-00003{variant}.safetensors"
        save_file({k: tensors[k] for k in keys}, file.with_name(name), metadata={"format": "pt"})
        table |= dict.fromkeys(keys, name)
    file.unlink()
    index = file.with_name(f"{file.name}.index{variant}.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_give_the_same_model(small, small_copy, variant):
    for part in ("unet", "vae", "text_encoder"):
        into_shards(small_copy, part, variant=variant)
    first, second = weights_of(small), weights_of(small_copy)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_shards_as_diffusers_writes_them(tiny_depth, tmp_path):
    copied = shutil.copytree(tiny_depth, tmp_path / "c")
    unet = UNet2DConditionModel.from_pretrained(tiny_depth, subfolder="unet")
    shutil.rmtree(copied / "unet")
    unet.save_pretrained(copied / "unet", max_shard_size="4MB")
    assert len(list((copied / "unet").glob("*.safetensors"))) > 1
    first, second = weights_of(tiny_depth), weights_of(copied)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_hash_covers_every_shard_and_not_how_they_are_cut(small_copy):
    into_shards(small_copy, "unet")
    first = open_checkpoint(small_copy).sha256()
    last = sorted((small_copy / "unet").glob("*.safetensors"))[-1]
    save_file({k: v + 1 for k, v in load_file(last).items()}, last)
    assert open_checkpoint(small_copy).sha256() != first


def test_a_weight_missing_from_shards_is_named_with_the_index(small_copy):
    edit_weights(small_copy, "unet", without("conv_in.weight"))
    index = into_shards(small_copy, "unet")
    assert f"{index} lacks 1 weights" in refused(small_copy)


def test_old_and_new_name_of_one_weight(small_copy):
    key = "encoder.mid_block.attentions.0.to_q.weight"
    edit_weights(small_copy, "vae", lambda w: w | {key.replace("to_q", "query"): w[key].clone()})
    assert f"holds {key!r} under two names" in refused(small_copy)


def test_whole_numbers_in_place_of_weights(small_copy):
    edit_weights(small_copy, "unet", lambda w: w | {"conv_in.bias": w["conv_in.bias"].int()})
    assert "'conv_in.bias' is stored as I32" in refused(small_copy)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", '{"a": "b"}', "\xff\xfe\x00"])
def test_odd_tokenizers_load_or_end_in_one_sentence(small_copy, name, text):
    (small_copy / "tokenizer" / name).write_text(text, encoding="latin-1")
    said = ""
    try:
        load_model(open_checkpoint(small_copy))
    except CheckpointError as error:
        said = str(error)
    assert said == "" or str(small_copy / "tokenizer") in said
    assert "\n" not in said


def test_a_pipe_among_the_tokenizers_files(small_copy):
    (small_copy / "tokenizer" / ".cache").mkdir()
    assert load_model(open_checkpoint(small_copy))
    os.mkfifo(small_copy / "tokenizer" / "special_tokens_map.json")
    assert "special_tokens_map.json is no plain file" in refused(small_copy)


def test_tokens_beyond_the_text_encoders_vocabulary(small_copy):
    edit_json(small_copy / "text_encoder/config.json", vocab_size=512)
    edit_weights(
        small_copy,
        "text_encoder",
        lambda w: {k: v[:512].clone() if "token_embedding" in k else v for k, v in w.items()},
    )
    assert "below the text encoder's vocab_size of 512" in refused(small_copy)
