import accelerate
import pytest
import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.train.batches import MixedBatches, Part
from e2e_deploy.train.folder import FolderDataset
from e2e_deploy.train.forward import TrainingForward
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step import Stepper, share_of_process
from tests.train.small_runs import small_config


def build(root, **sections):
    config = small_config(root, **sections)
    forward = TrainingForward(
        load_start(config).model, train=config.model.train, gradient_checkpointing=False
    )
    stepper = Stepper(forward, config, accelerate.Accelerator(mixed_precision="no"))
    part = Part(FolderDataset(config.data[0].root), 1, config.data[0].size)
    data = MixedBatches(
        [part], batch_size=config.optim.micro_batch, accumulation=stepper.accumulation, seed=0
    )
    return stepper, data


def run(stepper, data, steps=1, stop=lambda: False):
    batches = iter(data.loader(0, steps))
    return [stepper.run(step, batches, stop) for step in range(steps)]


def test_accumulated_gradient_is_the_mean_over_micro_batches(tmp_path):
    optim = {"micro_batch": 2, "effective_batch": 6, "clip_norm": 1e9}
    stepper, data = build(tmp_path, optim=optim)
    singles, losses = [], []
    for slot in range(3):
        stepper.optimizer.zero_grad()
        result = stepper._loss(data.batch_at(0, slot), seed=slot)
        result.loss.backward()
        singles.append([p.grad.clone() for _, p in stepper.named_parameters])
        losses.append(result.loss.item())
    (report,) = run(stepper, data)
    assert report.loss == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert (report.num_images, report.step) == (6, 1)
    for (_, parameter), *parts in zip(stepper.named_parameters, *singles, strict=True):
        torch.testing.assert_close(parameter.grad, sum(parts) / 3, atol=1e-6, rtol=1e-4)


def test_gradients_are_clipped_and_the_schedule_is_followed(tmp_path):
    optim = {"clip_norm": 0.01, "lr": 1e-3, "warmup_steps": 4, "decay_steps": 9}
    stepper, data = build(tmp_path, optim=optim)
    reports = run(stepper, data, steps=3)
    assert [report.lr for report in reports] == pytest.approx([2.5e-4, 5e-4, 7.5e-4])
    assert reports[0].grad_norm > 0.01
    norm = torch.stack([p.grad.norm() for _, p in stepper.named_parameters]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("kind", ["gaussian", "pyramid"])
def test_noise_depends_on_seed_and_place_alone(tmp_path, kind):
    stepper, _ = build(tmp_path, model={"noise": kind})
    rgb = torch.zeros(2, 3, 32, 40)
    noise = stepper._noise(rgb, stepper._seed(3, 1))
    assert noise.shape == (2, 4, 4, 5)
    torch.manual_seed(9)
    assert torch.equal(noise, stepper._noise(rgb, stepper._seed(3, 1)))
    others = {stepper._seed(step, number) for step in range(4) for number in range(4)}
    assert len(others) == 16
    assert not torch.equal(noise, stepper._noise(rgb, stepper._seed(3, 2)))


def test_a_stop_between_micro_batches_changes_nothing(tmp_path):
    stepper, data = build(tmp_path, optim={"micro_batch": 1, "effective_batch": 4})
    before = [p.detach().clone() for _, p in stepper.named_parameters]
    answers = iter([False, False, True])
    assert run(stepper, data, stop=lambda: next(answers)) == [None]
    after = [p for _, p in stepper.named_parameters]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_processes_share_evenly(tmp_path):
    config = small_config(tmp_path, optim={"micro_batch": 2, "effective_batch": 32})
    assert [share_of_process(config, world) for world in (1, 2, 8, 16)] == [16, 8, 2, 1]
    for world in (3, 32):
        with pytest.raises(UsageError, match=f"times {world} processes"):
            share_of_process(config, world)
