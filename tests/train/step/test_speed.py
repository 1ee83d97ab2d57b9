"""What makes steps faster changes nothing in them but rounding."""

import accelerate
import pytest
import torch
from torch import nn

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.train.data.batches import MixedBatches, Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step import choices as choices_module
from e2e_deploy.train.step.choices import Choices, choose, largest
from e2e_deploy.train.step.compiled import compile_regions, why_not_compiled
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.half_weights import HalfWeights
from e2e_deploy.train.step.memory import Need, need_of
from e2e_deploy.train.step.passes import in_passes
from e2e_deploy.train.step.step import Stepper
from tests.train.small_runs import small_config

CPU = torch.device("cpu")


def steps_of(root, chosen, steps=2, **sections):
    """Reports and weights after a few steps."""
    config = small_config(root, **sections)
    start = load_start(config).model
    forward = TrainingForward(start, train=config.model.train, gradient_checkpointing=False)
    stepper = Stepper(forward, config, accelerate.Accelerator(mixed_precision="no"), choices=chosen)
    part = Part(FolderDataset(config.data[0].root, task=config.task), 1, config.data[0].size)
    data = MixedBatches(
        [part],
        batch_size=config.optim.micro_batch,
        per_step=stepper.accumulation,
        task=config.task,
    )
    batches = iter(data.loader(0, steps))
    reports = [stepper.run(step, batches, lambda: False) for step in range(steps)]
    return reports, {name: weight.detach().clone() for name, weight in stepper.named_parameters}


@pytest.mark.parametrize("mean", ["step", "micro_batch"])
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_steps_are_the_same_however_many_images_a_pass_has(tmp_path, task, mean):
    sections = {
        "task": task,
        "optim": {"micro_batch": 1, "effective_batch": 4},
        "loss": {"mean": mean},
        "model": {"noise": "gaussian"},
    }
    one, weights = steps_of(tmp_path, None, **sections)
    for together in (3, 4):  # 3 leaves one that comes alone
        other, same = steps_of(tmp_path, Choices(micro_batches_per_pass=together), **sections)
        assert [r.loss for r in other] == pytest.approx([r.loss for r in one], rel=1e-4)
        assert [r.grad_norm for r in other] == pytest.approx([r.grad_norm for r in one], rel=1e-3)
        assert [r.num_images for r in other] == [4, 4]
        for name, weight in weights.items():
            torch.testing.assert_close(same[name], weight, atol=2e-3, rtol=1e-2)


def test_micro_batches_of_one_shape_come_together():
    shapes = [1, 1, 1, 2, 2, 1, 1]
    batches = [{"rgb": torch.zeros(each), "number": i} for i, each in enumerate(shapes)]
    found = [[each["number"] for each in together] for together in in_passes(batches, 2)]
    assert found == [[0, 1], [2], [3, 4], [5, 6]]
    assert [len(together) for together in in_passes(batches, 1)] == [1] * 7


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("is_first_frozen", [False, True])
def test_weights_cast_once_give_the_bits_of_autocast(is_first_frozen):
    x = torch.rand(2, 3, 8, 8)
    models = [two_layers(), two_layers()]
    for model in models:
        model[0].requires_grad_(not is_first_frozen)
    half = HalfWeights(models[1], torch.bfloat16)
    for _ in range(2):  # the second pass adds to gradients that are there
        with torch.autocast("cpu", torch.bfloat16):
            models[0](x).square().sum().backward()
        with half.in_use(), torch.autocast("cpu", torch.bfloat16):
            assert models[1][2].weight.dtype == torch.bfloat16
            models[1](x).square().sum().backward()
    for plain, cast in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert cast.dtype == torch.float32
        assert (plain.grad is None) == (cast.grad is None)
        if plain.grad is not None:
            assert cast.grad.dtype == torch.float32
            assert torch.equal(plain.grad, cast.grad)


def test_copies_follow_their_weights_and_layers_left_out_stay():
    model = two_layers()
    half = HalfWeights(model, torch.bfloat16, channels_last=True, exclude=(model[2],))
    with torch.no_grad():
        model[0].weight.add_(1)
    weight = model[0].weight
    with half.in_use():
        assert torch.equal(model[0].weight, weight.bfloat16())
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert model[2].weight.dtype == torch.float32
    assert model[0].weight is weight
    with HalfWeights(model, torch.float32).in_use():
        assert model[0].weight is weight


def test_the_memory_of_a_pass_is_what_it_keeps(tmp_path):
    config = small_config(tmp_path)
    forward = TrainingForward(
        load_start(config).model, train=("unet",), gradient_checkpointing=False
    )
    needs = [need_of(forward, (size, size), CPU, torch.float32) for size in (32, 64)]
    assert needs[0].fixed == needs[1].fixed
    trained = sum(weight.numel() for _, weight in forward.named_trained())
    assert needs[0].fixed == 4 * sum(p.numel() for p in forward.parameters()) + 12 * trained
    # Four times the pixels: what does not grow is the time embedding and the prompt.
    assert 3 * needs[0].image < needs[1].image < 20 * needs[0].image
    half = need_of(forward, (64, 64), CPU, torch.bfloat16)
    assert half.image < needs[1].image
    assert half.fixed > needs[1].fixed


NEED = Need(20, 10)


def chosen(root, device="cuda", *, free=100, need=NEED, **sections):
    config = small_config(
        root,
        **{"model": {"gradient_checkpointing": "auto"}, "optim": {"effective_batch": 32}}
        | sections,
    )
    return choose(
        config, torch.device(device), accumulation=16, need=lambda: need, free=lambda: free
    )


def test_what_fits_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(choices_module, "why_not_compiled", lambda device: None)
    found = chosen(tmp_path)  # 90 usable, 20 fixed: 7 images
    assert (found.gradient_checkpointing, found.micro_batches_per_pass) == (False, 2)
    assert "an image needs" in found.sentences[0]
    assert chosen(tmp_path, free=30).gradient_checkpointing  # 27 usable: none
    assert chosen(tmp_path, free=30).micro_batches_per_pass == 1
    assert chosen(tmp_path, free=10_000).micro_batches_per_pass == 8  # at most 16 images
    assert chosen(tmp_path, need=None).gradient_checkpointing
    assert not chosen(tmp_path, "cpu").gradient_checkpointing
    assert chosen(tmp_path, "cpu", free=10_000).micro_batches_per_pass == 1
    asked = chosen(tmp_path, speed={"images_per_pass": 8}, model={"gradient_checkpointing": True})
    assert (asked.gradient_checkpointing, asked.micro_batches_per_pass) == (True, 4)
    with pytest.raises(UsageError, match="images_per_pass is 34, but a process has 32 images"):
        chosen(tmp_path, speed={"images_per_pass": 34})


def test_compilation_is_chosen_where_it_pays(tmp_path, monkeypatch):
    monkeypatch.setattr(choices_module, "why_not_compiled", lambda device: None)
    long = {"effective_batch": 32, "steps": 500}
    assert chosen(tmp_path, optim=long).compiled
    assert not chosen(tmp_path, optim=long, speed={"compile": False}).compiled
    assert not chosen(tmp_path, optim=long | {"steps": 499}).compiled
    assert not chosen(tmp_path, "cpu", optim=long).compiled
    assert chosen(tmp_path, "cpu", speed={"compile": True}).compiled
    monkeypatch.setattr(choices_module, "why_not_compiled", lambda device: "there is no compiler")
    found = chosen(tmp_path, optim=long)
    assert (found.compiled, found.sentences[2]) == (False, "compilation off: there is no compiler")
    with pytest.raises(UnavailableError, match=r"no compiler; or set speed\.compile = false"):
        chosen(tmp_path, speed={"compile": True})


def test_the_largest_size_counts():
    assert largest([(480, 640), (352, 1216)]) == (352, 1216)
    assert largest([(480, 640), None]) is None


def test_blocks_are_compiled_once_and_whole(tmp_path):
    model = load_start(small_config(tmp_path)).model
    number = compile_regions(model)
    compiled = [m for m in model.modules() if m._compiled_call_impl is not None]
    assert len(compiled) == number > 10
    kinds = {type(module).__name__ for module in compiled}
    assert kinds == {"ResnetBlock2D", "Transformer2DModel", "Attention", "GroupNorm"}
    inside = [m for each in compiled for m in each.modules() if m is not each]
    assert not any(module._compiled_call_impl is not None for module in inside)


@pytest.mark.skipif(why_not_compiled(CPU) is not None, reason="there is no C++ compiler")
def test_compiled_steps_agree_with_others(tmp_path, monkeypatch):
    """By the compiler's front half alone: AOTAutograd's graphs, run by torch; code for a CPU takes minutes to make."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self, **how: compile_module(self, backend="aot_eager", **how),
    )
    sections = {"model": {"precision": "bf16"}}
    plain, weights = steps_of(tmp_path, None, steps=2, **sections)
    compiled, same = steps_of(tmp_path, Choices(compiled=True), steps=2, **sections)
    assert [r.loss for r in compiled] == pytest.approx([r.loss for r in plain], rel=2e-2)
    assert [r.grad_norm for r in compiled] == pytest.approx([r.grad_norm for r in plain], rel=5e-2)
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, atol=5e-3, rtol=5e-2)
