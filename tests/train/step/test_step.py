import accelerate
import pytest
import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.train.data.batches import MixedBatches, Part, collate
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.step import Stepper, share_of_process
from tests.train.small_runs import small_config


def build(root, **sections):
    config = small_config(root, **sections)
    forward = TrainingForward(
        load_start(config).model, train=config.model.train, gradient_checkpointing=False
    )
    stepper = Stepper(forward, config, accelerate.Accelerator(mixed_precision="no"))
    part = Part(FolderDataset(config.data[0].root, task=config.task), 1, config.data[0].size)
    data = MixedBatches(
        [part], batch_size=config.optim.micro_batch, per_step=stepper.accumulation, seed=0
    )
    return stepper, data


def run(stepper, data, steps=1, stop=lambda: False):
    batches = iter(data.loader(0, steps))
    return [stepper.run(step, batches, stop) for step in range(steps)]


def unequal_batch(data, task="depth"):
    """Four pictures whose truth is whole, one pixel in nine, nothing, and constant or another whole one."""
    batch = collate([data.parts[0].dataset.read(i) for i in range(4)], task=task)
    dots = torch.zeros_like(batch["valid"][1])
    dots[:, ::3, ::3] = True
    batch["valid"][1] &= dots
    batch["valid"][2] = False
    if task == "depth":
        batch["depth_m"][3] = 3.0
    return batch


def parts_of(batch, micro_batch):
    """The same pictures as micro-batches."""
    starts = range(0, len(batch["paths"]), micro_batch)
    return [{k: v[i : i + micro_batch] for k, v in batch.items()} for i in starts]


def plain_errors(task, prediction, batch):
    """Errors of the valid pixels of every picture with a usable truth, float64, by the definition."""
    errors = []
    for x, depth, normals, valid in zip(
        prediction.double(), batch["depth_m"], batch["normals"], batch["valid"], strict=True
    ):
        if not valid.any():
            continue
        if task == "normals":
            cosine = torch.cosine_similarity(x, normals.double(), dim=0)
            errors.append(torch.arccos(cosine)[valid[0]])
        elif depth[valid].std() > 0:
            design = torch.stack([x[valid], torch.ones_like(x[valid])], dim=1)
            fit = torch.linalg.pinv(design) @ depth[valid].double()
            errors.append((design @ fit - depth[valid]).abs())
    return errors


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_step_is_one_mean_over_its_pixels_for_any_micro_batch(tmp_path, task, micro_batch):
    optim = {"micro_batch": micro_batch, "effective_batch": 4, "clip_norm": 1e9}
    stepper, data = build(tmp_path, task=task, optim=optim)
    batch = unequal_batch(data, task)
    errors = torch.cat(plain_errors(task, stepper.forward(batch["rgb"], None), batch))
    expected = torch.autograd.grad(errors.mean(), [p for _, p in stepper.named_parameters])
    report = stepper.run(0, iter(parts_of(batch, micro_batch)), lambda: False)
    assert report.loss == pytest.approx(errors.mean().item(), rel=1e-5)
    assert (report.num_images, report.num_degenerate) == (4, 2 if task == "depth" else 1)
    largest = max(gradient.abs().max() for gradient in expected)
    for (_, parameter), gradient in zip(stepper.named_parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * largest.item())


def test_the_papers_code_takes_a_mean_in_each_micro_batch(tmp_path):
    optim = {"micro_batch": 1, "effective_batch": 4, "clip_norm": 1e9}
    stepper, data = build(tmp_path, optim=optim, loss={"mean": "micro_batch"})
    batch = unequal_batch(data)
    means = [
        part.mean() for part in plain_errors("depth", stepper.forward(batch["rgb"], None), batch)
    ]
    expected = torch.autograd.grad(sum(means) / 4, [p for _, p in stepper.named_parameters])
    report = stepper.run(0, iter(parts_of(batch, 1)), lambda: False)
    assert len(means) == 2
    assert report.loss == pytest.approx(sum(means).item() / 4, rel=1e-5)  # an empty one counts as 0
    norm = torch.stack([gradient.norm() for gradient in expected]).norm().item()
    assert report.grad_norm == pytest.approx(norm, rel=1e-3)


def test_a_step_without_any_truth_changes_nothing(tmp_path):
    stepper, data = build(tmp_path, optim={"micro_batch": 2, "effective_batch": 4})
    (first,) = run(stepper, data)
    assert first.loss is not None  # AdamW has a momentum now, which would go on
    before = [p.detach().clone() for _, p in stepper.named_parameters]
    batch = unequal_batch(data)
    batch["valid"][:2] = False
    report = stepper.run(1, iter(parts_of(batch, 2)), lambda: False)
    assert (report.loss, report.num_degenerate, report.skipped) == (None, 4, False)
    assert report.teaches_nothing
    after = [p for _, p in stepper.named_parameters]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradients_are_clipped_and_the_schedule_is_followed(tmp_path):
    optim = {"clip_norm": 0.01, "lr": 1e-3, "warmup_steps": 4, "decay_steps": 9}
    stepper, data = build(tmp_path, optim=optim)
    reports = run(stepper, data, steps=3)
    assert [report.lr for report in reports] == pytest.approx([2.5e-4, 5e-4, 7.5e-4])
    assert reports[0].grad_norm > 0.01
    norm = torch.stack([p.grad.norm() for _, p in stepper.named_parameters]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("kind", ["gaussian", "pyramid"])
def test_noise_depends_on_seed_and_image_alone(tmp_path, kind):
    stepper, _ = build(tmp_path, model={"noise": kind})
    rgb = torch.zeros(4, 3, 32, 40)
    seeds = [stepper._seed(3, image) for image in range(4)]
    noise = stepper.objective._noise(rgb, seeds)
    assert noise.shape == (4, 4, 4, 5)
    torch.manual_seed(9)
    halves = [
        stepper.objective._noise(rgb[:2], seeds[:2]),
        stepper.objective._noise(rgb[2:], seeds[2:]),
    ]
    assert torch.equal(noise, torch.cat(halves))
    assert len({stepper._seed(step, image) for step in range(4) for image in range(4)}) == 16
    assert len({image.sum().item() for image in noise}) == 4


def test_a_stop_between_micro_batches_changes_nothing(tmp_path):
    stepper, data = build(tmp_path, optim={"micro_batch": 1, "effective_batch": 4})
    before = [p.detach().clone() for _, p in stepper.named_parameters]
    answers = iter([False, False, True])
    assert run(stepper, data, stop=lambda: next(answers)) == [None]
    after = [p for _, p in stepper.named_parameters]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_processes_share_the_micro_batches(tmp_path):
    config = small_config(tmp_path, optim={"micro_batch": 2, "effective_batch": 32})
    assert [share_of_process(config, world) for world in (1, 2, 8, 16)] == [16, 8, 2, 1]
    for world in range(1, 17):
        shares = [share_of_process(config, world, rank) for rank in range(world)]
        assert sum(shares) == 16
        assert shares[0] == max(shares) <= shares[-1] + 1
    with pytest.raises(
        UsageError, match="is 16 micro-batches of 2, which give 17 processes not one"
    ):
        share_of_process(config, 17)
