"""Layers removed from the UNet of a model that is distilled: which weights stay, what it learns, what comes of it."""

import dataclasses
import json
import re
import signal
import warnings

import diffusers
import numpy as np
import pytest
import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.distillation import distil
from e2e_deploy.train.distillation.answers import Answers
from e2e_deploy.train.distillation.losses import unet_loss
from e2e_deploy.train.distillation.measured import Chain, HeldOutPictures
from e2e_deploy.train.distillation.sources import pictures_of
from e2e_deploy.train.distillation.unet import thinned
from e2e_deploy.train.pretraining import pretrain
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.training import train_model
from tests.export.random_models import UNET, random_model, random_rgb, randomise
from tests.peers import assert_equal_to_its_pipeline
from tests.train.distillation.test_distil import alone, table
from tests.train.small_runs import equal, logged, weights, write_start


def random_unet(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = diffusers.UNet2DConditionModel(**UNET | changes).double().eval()
    randomise(unet, torch.Generator().manual_seed(0))
    return unet


def idle(unet, way, block, number):
    """Let a layer hand on what it gets from the layer before."""
    layers = getattr(unet, f"{way}_blocks")[block]
    resnet = layers.resnets[number]
    resnet.conv2.weight.data.zero_()
    resnet.conv2.bias.data.zero_()
    if resnet.conv_shortcut is not None:  # without what the way down has stored
        width = resnet.conv_shortcut.out_channels
        resnet.conv_shortcut.bias.data.zero_()
        resnet.conv_shortcut.weight.data.zero_()[:, :width, 0, 0] = torch.eye(width)
    for attention in getattr(layers, "attentions", [])[number : number + 1]:
        attention.proj_out.weight.data.zero_()
        attention.proj_out.bias.data.zero_()


def given(unet):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 8, 8, 12, generator=generator, dtype=torch.float64)
    context = torch.randn(1, 2, 24, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return unet(z, 999, context).sample


def test_layers_that_do_nothing_go_without_a_trace():
    unet = random_unet(layers_per_block=(3, 2))
    for way, block, number in (
        ("down", 0, 1),
        ("down", 0, 2),
        ("up", 1, 1),
        ("up", 1, 2),
        ("down", 1, 1),
        ("up", 0, 1),
    ):
        before = given(unet)
        idle(unet, way, block, number)
        assert float((given(unet) - before).abs().max()) > 1e-3
    expected, kept = given(unet), {k: v.clone() for k, v in unet.state_dict().items()}
    thin = thinned(unet, (1, 1))
    torch.testing.assert_close(given(thin), expected, rtol=0, atol=1e-12)
    assert list(thin.config.layers_per_block) == [1, 1]
    assert not any(parameter.requires_grad for parameter in thin.parameters())
    for parameter in thin.parameters():
        parameter.data.zero_()
    assert equal(unet.state_dict(), kept)


def test_a_level_may_stay():
    unet = random_unet(layers_per_block=2)
    thin = thinned(unet, (2, 1))
    for way, block in (("down", 0), ("up", 1), ("mid", None)):
        one, other = (getattr(each, f"{way}_block{'s' * (way != 'mid')}") for each in (unet, thin))
        one, other = (one, other) if block is None else (one[block], other[block])
        assert equal(one.state_dict(), other.state_dict())
    assert [len(each.up_blocks[0].resnets) for each in (unet, thin)] == [3, 2]
    # What a level on the way up ends with reads what the level above has stored.
    assert equal(
        unet.up_blocks[0].resnets[2].state_dict(), thin.up_blocks[0].resnets[1].state_dict()
    )


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ((1, 1, 1), r"\[1, 1, 1\]; expected 2 numbers, one for each level"),
        ((), r"\[\]; expected 2 numbers"),
        ((1, 3), r"\[1, 3\], but the levels .* have \[2, 2\] layers: expected no more"),
        ((2, 2), "nothing would be removed; leave it out"),
    ],
)
def test_a_list_that_does_not_fit_is_told(layers, told):
    with pytest.raises(UsageError, match=told):
        thinned(random_unet(layers_per_block=2), layers)


def test_blocks_that_do_not_go_are_told():
    unet = random_unet(
        layers_per_block=2,
        transformer_layers_per_block=[[1, 1], [1, 1]],
        reverse_transformer_layers_per_block=[[1, 1, 2], [1, 1, 2]],
    )
    with pytest.raises(UsageError, match="distil.unet_layers can remove none"):
        thinned(unet, (1, 1))


def test_the_loss_is_of_x0_and_of_what_blocks_hand_on():
    teacher = random_model(unet={"layers_per_block": 2})
    rgb = random_rgb(2, 3, 24, 16)
    with torch.no_grad():
        z = teacher.encode(rgb)
        of_teacher = teacher.predict_x0(z).float()
    answers = Answers(rgb, z, None, None)
    student = random_model(unet={"layers_per_block": 2})
    assert float(unet_loss(teacher, student, answers)) < 1e-12
    with torch.no_grad():
        student.unet.conv_out.bias += 0.5  # after the last block
    assert float(unet_loss(teacher, student, answers)) == pytest.approx(0.125, rel=1e-5)
    student = random_model(unet={"layers_per_block": 2})
    with torch.no_grad():
        student.unet.up_blocks[1].resnets[2].conv2.bias += 0.1
    last = [0.0, 0.0]
    for place, model in enumerate((teacher, student)):
        hook = model.unet.up_blocks[1].register_forward_hook(
            lambda _block, _given, output, place=place: last.__setitem__(place, output)
        )
        with torch.no_grad():
            x0 = model.predict_x0(z)
        hook.remove()
    share = float((last[1] - last[0]).square().mean() / last[0].square().mean()) / 4
    of_x0 = float(torch.nn.functional.smooth_l1_loss(x0.float(), of_teacher))
    assert share > 1e-5
    assert float(unet_loss(teacher, student, answers)) == pytest.approx(of_x0 + share, rel=1e-4)
    assert not student.unet.up_blocks[1]._forward_hooks


def test_activations_computed_again_change_no_gradient():
    """The hooks on blocks see each of them once."""
    teacher = random_model(unet={"layers_per_block": 2})
    rgb = random_rgb(2, 3, 24, 16)
    with torch.no_grad():
        answers = Answers(rgb, teacher.encode(rgb), None, None)
    found = []
    for again in (False, True):
        student, passes = random_model(unet={"layers_per_block": 2}), []
        student.unet = thinned(teacher.unet, (1, 1)).requires_grad_(True)
        if again:
            student.unet.enable_gradient_checkpointing()
        layer = student.unet.up_blocks[0].resnets[0]
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(None))
        loss = unet_loss(teacher, student, answers)
        loss.backward()
        gradients = {name: weight.grad for name, weight in student.unet.named_parameters()}
        found.append((float(loss.detach()), gradients, len(passes)))
    (loss, gradients, once), (the_same, again, twice) = found
    assert (once, twice) == (1, 2)
    assert the_same == loss > 1e-3
    assert equal(again, gradients)


FEWER = {"unet_layers": [1, 1], "unet_steps": 6, "unet_lr": 1e-3}
LEARNED = {"decoder_steps": 60, "decoder_lr": 5e-3}
"""A decoder whose results are not the same everywhere."""


def start(root):
    write_start(root / "start", layers_per_block=2)
    return root


def card(model):
    return json.loads((model / "e2e_deploy.json").read_text())["trained"]["distilled"]


def test_the_unet_learns_between_the_two_and_is_trained_on(tmp_path, capsys):
    steps = {"unet_steps": 60} | LEARNED
    held_out = {"root": str(tmp_path / "data"), "split": "train", "size": [32, 40], "num_images": 2}
    optim = {"steps": 2, "decay_steps": 2}
    config = parse_config(table(start(tmp_path), FEWER | steps, eval=held_out, optim=optim))
    result = train_model(config)
    told = capsys.readouterr().err
    order = re.findall(r"distillation of the (\w+): held-out: abs_rel_from_teacher", told)
    assert order == ["decoder", "unet", "encoder"]
    losses = [float(loss) for loss in re.findall(r"of the unet: step \d+/60  loss (\S+)", told)]
    assert losses[-1] < 0.6 * losses[0]
    distilled = tmp_path / "out" / "distil" / "model"
    found = card(distilled)
    assert found["settings"]["distil"]["unet_layers"] == [1, 1]
    assert list(found["held_out"]) == ["teacher", "decoder", "unet", "encoder"]
    teacher, model = (load_model(open_checkpoint(each)) for each in (tmp_path / "start", distilled))
    for part, parts in (
        ("decoder", (teacher, teacher, model)),
        ("unet", (teacher, model, model)),
        ("encoder", (model, model, model)),
    ):
        measured = HeldOutPictures(config, pictures_of(config), []).measure(teacher, Chain(*parts))
        assert measured == pytest.approx(found["held_out"][part], rel=1e-4)
    assert card(result.model) == found
    before, after = (weights(folder) for folder in (distilled, result.model))
    assert len(logged(tmp_path / "out")) == 2
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[key], after[key]) for key in before if "weight" in key)
    assert not any("down_blocks.0.resnets.1" in key for key in before)
    assert any("up_blocks.0.resnets.1" in key for key in before)


def test_what_comes_of_it_runs_everywhere(tmp_path):
    made = train_model(parse_config(alone(start(tmp_path), FEWER | LEARNED))).model
    pipeline = diffusers.MarigoldDepthPipeline.from_pretrained(made)
    assert list(pipeline.unet.config.layers_per_block) == [1, 1]
    frame = np.random.default_rng(1).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    assert_equal_to_its_pipeline(type(pipeline), made, frame, atol=1e-6)
    # A level of 5 columns is halved to 3.
    bundle = export_bundle(
        made,
        tmp_path / "bundle",
        frame_sizes=[(32, 40)],
        resolution=0,
        batch=2,
        engine="onnx",
    )
    (verified,) = bundle.manifest.verification
    assert verified.parity["relative"] < 1e-4


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    made = parse_config(alone(start(tmp_path), FEWER, run={"checkpoint_every": 100}))
    whole = dataclasses.replace(
        made, run=dataclasses.replace(made.run, out=str(tmp_path / "whole"))
    )
    expected = train_model(whole).model
    step, seen = pretrain._Trained.step, []

    def stepping(self, loss, *, lr):
        norm = step(self, loss, lr=lr)
        seen.append(lr)
        if len(seen) == 9:  # the UNet's third
            signal.raise_signal(signal.SIGTERM)
        return norm

    monkeypatch.setattr(pretrain._Trained, "step", stepping)
    with pytest.raises(KeyboardInterrupt):
        train_model(made)
    assert "interrupted; step 3 of the unet is saved" in capsys.readouterr().err
    root = tmp_path / "out" / "distil"
    (folder,) = checkpoint_folders(root / "unet-steps")
    assert folder.name == "step-00000003"
    for changes in (FEWER | {"unet_layers": [2, 1]}, FEWER | {"unet_lr": 1e-2}, {}):
        with pytest.raises(UsageError, match="was distilled with other settings"):
            train_model(parse_config(alone(tmp_path, changes, run={"checkpoint_every": 100})))
    result = train_model(made).model
    assert len(seen) == 18
    assert not list(root.iterdir())
    for part in ("unet", "vae"):
        assert equal(weights(result, part), weights(expected, part))
    teacher = weights(tmp_path / "start")
    moved = weights(result)
    assert not torch.equal(moved["conv_in.weight"], teacher["conv_in.weight"])


def test_less_memory_and_fewer_passes_of_the_teacher(tmp_path, monkeypatch):
    seen = {}

    def spy(name):
        loss_of = getattr(distil, name)

        def asked(*given, **settings):
            student, answers = given[-2:]
            seen[name] = (student.unet.is_gradient_checkpointing, answers.x0_B4hw is not None)
            return loss_of(*given, **settings)

        monkeypatch.setattr(distil, name, asked)

    for name in ("decoder_loss", "unet_loss", "encoder_loss"):
        spy(name)
    start(tmp_path)
    models = []
    for on, weight in ((False, 1.0), (True, 1.0), (True, 0.0)):
        made = alone(
            tmp_path,
            FEWER | {"x0_weight": weight},
            model={"gradient_checkpointing": on},
            run={"out": str(tmp_path / f"{on}-{weight}")},
        )
        models.append(train_model(parse_config(made)).model)
        assert seen == {
            "decoder_loss": (on, True),
            "unet_loss": (on, False),
            "encoder_loss": (on, weight > 0),
        }
    for part in ("unet", "vae"):
        assert equal(weights(models[0], part), weights(models[1], part))


def test_where_checkpointing_has_an_effect(tmp_path):
    on = {"gradient_checkpointing": True}
    for changes in (FEWER | {"x0_weight": 0.0}, {}):
        assert parse_config(alone(start(tmp_path), changes, model=on)).model.gradient_checkpointing
    with pytest.raises(UsageError, match=r"model.gradient_checkpointing has no effect without"):
        parse_config(alone(tmp_path, {"x0_weight": 0.0}, model=on))


def test_the_list_is_told_before_anything_is_learned(tmp_path):
    for layers in ([1, 1, 1], [1, 3], [2, 2]):
        made = parse_config(alone(start(tmp_path), FEWER | {"unet_layers": layers}))
        with pytest.raises(UsageError, match=re.escape(f"distil.unet_layers is {layers}")):
            train_model(made)
        assert not (tmp_path / "out" / "distil").exists()


def test_a_run_without_it_says_nothing_of_it(tmp_path):
    """So that models which were distilled before are still those of their runs."""
    made = train_model(parse_config(alone(tmp_path))).model
    assert not [key for key in card(made)["settings"]["distil"] if key.startswith("unet")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unet_steps": 5}, "distil.unet_steps has no effect without distil.unet_layers"),
        ({"unet_lr": 1e-3}, "distil.unet_lr has no effect without distil.unet_layers"),
        (FEWER | {"unet_layers": [1, 0]}, r"distil.unet_layers\[1\] is 0; expected at least 1"),
        (FEWER | {"unet_layers": 1}, "distil.unet_layers"),
        (FEWER | {"unet_steps": 0}, "distil.unet_steps is 0; expected at least 1"),
    ],
)
def test_contradictions_are_told(tmp_path, change, told):
    with pytest.raises(UsageError, match=told):
        parse_config(table(tmp_path, change))
