"""A run that fails does not damage what it has: NaN, signals, full disks, killed readers."""

import dataclasses
import errno
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.train.run import health, loop
from e2e_deploy.train.run.heldout import HeldOut
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.step.objective import Decoded
from e2e_deploy.train.training import train_model
from tests.train.fixtures import write_folder
from tests.train.small_runs import equal, logged, small_config, weights, write_start

SCRIPT = Path(__file__).with_name("launched_run.py")


def test_a_step_with_nan_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    poison(monkeypatch, lambda number: number == 4)  # the second micro-batch of the second step
    run = {"checkpoint_every": 1, "keep": 9}
    result = train_model(small_config(tmp_path, optim={"steps": 3}, run=run))
    assert [entry["skipped"] for entry in logged(tmp_path / "out")] == [False, True, False]
    assert (result.progress.num_nonfinite, result.progress.nonfinite_in_a_row) == (1, 0)
    from safetensors.torch import load_file

    folders = checkpoint_folders(tmp_path / "out" / "checkpoints")
    # None of the second step: its weights may be what gave NaN.
    assert [folder.name for folder in folders] == ["step-00000001", "step-00000003"]
    one, three = (load_file(folder / "unet.safetensors") for folder in folders)
    assert not equal(one, three)
    assert all(tensor.isfinite().all() for tensor in three.values())


def poison(monkeypatch, is_nan):
    """The losses of those micro-batches are NaN, counted from 1 over all steps."""
    compute, numbers = Decoded.results, itertools.count(1)

    def poisoned(self, rgb, truths, seeds):
        return [
            dataclasses.replace(each, error_sum=each.error_sum * torch.nan)
            if is_nan(next(numbers))
            else each
            for each in compute(self, rgb, truths, seeds)
        ]

    monkeypatch.setattr(Decoded, "results", poisoned)


def poison_after(monkeypatch, num_losses):
    """Every loss after the first ``num_losses`` micro-batches is NaN."""
    poison(monkeypatch, lambda number: number > num_losses)


def test_a_streak_of_nan_writes_no_checkpoint_and_deletes_none(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "MAX_NONFINITE_IN_A_ROW", 4)
    run = {"checkpoint_every": 1, "keep": 1}
    good = tmp_path / "out" / "checkpoints" / "step-00000002"
    with monkeypatch.context() as patch:
        poison_after(patch, 4)  # two steps of two micro-batches
        with pytest.raises(E2EDeployError, match=r"up to step 6: ") as caught:
            train_model(small_config(tmp_path, optim={"steps": 9}, run=run))
    assert f"goes on from {good}" in str(caught.value)
    assert checkpoint_folders(good.parent) == [good]
    with monkeypatch.context() as patch:
        poison_after(patch, 0)
        with pytest.raises(E2EDeployError, match=f"no step since {good} gave a number"):
            train_model(small_config(tmp_path, optim={"steps": 9}, run=run))
        # A run that ends in a streak has no result.
        with pytest.raises(E2EDeployError, match="2 steps in a row"):
            train_model(small_config(tmp_path, optim={"steps": 4}, run=run))
    assert checkpoint_folders(good.parent) == [good]
    assert not (tmp_path / "out" / "model").exists()
    with pytest.raises(UsageError, match=r"other settings \(optim.lr\)"):
        train_model(small_config(tmp_path, optim={"steps": 4, "lr": 2e-3}, run=run))
    lower = small_config(tmp_path, optim={"steps": 4, "lr": 1e-4}, run=run)
    assert train_model(lower).progress.step == 4


def test_an_interruption_in_a_streak_of_nan_saves_nothing(tmp_path, monkeypatch, capsys):
    tell = loop.Reporter.step

    def telling(self, report):
        tell(self, report)
        if report.step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Reporter, "step", telling)
    poison_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train_model(small_config(tmp_path, optim={"steps": 9}, run={"checkpoint_every": 2}))
    folders = checkpoint_folders(tmp_path / "out" / "checkpoints")
    assert [folder.name for folder in folders] == ["step-00000002"]
    assert (
        f"gave NaN and are not saved; the run goes on from {folders[0]}" in capsys.readouterr().err
    )


def test_a_data_set_that_grew_is_told_when_a_run_goes_on(tmp_path, capsys):
    train_model(small_config(tmp_path, optim={"steps": 1}))
    train_model(small_config(tmp_path, optim={"steps": 2}))
    assert "has changed since" not in capsys.readouterr().err
    write_folder(tmp_path / "data", num_samples=7)
    train_model(small_config(tmp_path, optim={"steps": 3}))
    assert "(train) has changed since (6 images then, 7 now)" in capsys.readouterr().err


def fails_to_write_its_model(monkeypatch, config):
    """The sentence with which the run ends."""

    def full(*_arguments, **_named):
        error = OSError(errno.ENOSPC, "No space left on device")
        raise E2EDeployError(f"the model could not be written: {error.strerror}") from error

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_model", full)
        with pytest.raises(E2EDeployError, match="No space left on device") as caught:
            train_model(config)
    return str(caught.value)


def card_of(result):
    return json.loads((result.model / "e2e_deploy.json").read_text())


def test_a_disk_that_is_full_at_the_end_is_one_sentence(tmp_path, monkeypatch):
    config = small_config(tmp_path, optim={"steps": 1})
    told = fails_to_write_its_model(monkeypatch, config)
    assert "step 1 is saved: free space and run it again" in told
    assert train_model(config).model.is_dir()


def test_a_longer_run_whose_model_was_not_written_does_not_pass_the_older_one_for_it(
    tmp_path, monkeypatch
):
    train_model(small_config(tmp_path, optim={"steps": 2}))
    config = small_config(tmp_path, optim={"steps": 4})
    fails_to_write_its_model(monkeypatch, config)
    assert card_of(train_model(config))["trained"]["steps"] == 4
    other = small_config(tmp_path, optim={"steps": 4}, model={"resolution": 64})
    assert open_checkpoint(train_model(other).model).resolution == 64


def test_a_finished_run_keeps_its_best_model_when_the_file_of_the_best_is_gone(
    tmp_path, monkeypatch
):
    numbers, measure = iter([0.2, 0.4, 0.6, 0.8]), HeldOut.measure

    def measured(self, stepper, should_stop):
        result = measure(self, stepper, should_stop)
        metrics = dataclasses.replace(result.metrics, abs_rel=next(numbers))
        return dataclasses.replace(result, metrics=metrics, problem=None)

    monkeypatch.setattr(HeldOut, "measure", measured)
    held_out = {"root": str(tmp_path / "data"), "split": "train", "every": 1, "num_images": 2}
    best = {"optim": {"steps": 2}, "eval": held_out | {"select": "best"}}
    result = train_model(small_config(tmp_path, **best))
    (tmp_path / "out" / "best.safetensors").unlink()
    before = weights(result.model)
    assert train_model(small_config(tmp_path, **best)).evaluation is None
    assert equal(weights(result.model), before)
    assert card_of(result)["trained"]["selected"]["step"] == 1
    # The last weights are there to be asked for.
    train_model(small_config(tmp_path, **best | {"eval": held_out}))
    assert card_of(result)["trained"]["selected"] == "last"
    assert not equal(weights(result.model), before)


@pytest.mark.parametrize("is_measured", [True, False])
def test_a_model_that_is_written_later_is_marked_all_the_same(tmp_path, monkeypatch, is_measured):
    write_start(tmp_path / "start", seed=1)  # which happens to begin inverted
    held_out = {"eval": {"root": str(tmp_path / "data"), "split": "train"}} if is_measured else {}
    config = small_config(
        tmp_path, optim={"steps": 2, "lr": 1e-6}, loss={"direction_weight": 0.0}, **held_out
    )
    fails_to_write_its_model(monkeypatch, config)
    card = card_of(train_model(config))
    assert card["note"] == "inverted depth"
    assert (card["trained"]["evaluation"] is None) != is_measured
    assert train_model(config).evaluation is None  # what is there stays


def test_a_reading_process_that_is_killed_is_one_sentence(tmp_path, monkeypatch):
    tell, killed = loop.Reporter.step, []

    def telling(self, report):
        tell(self, report)
        readers = [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
        if not killed:
            killed.append(readers[0])
            readers[0].kill()
            # Torch raises at the signal of its end, which may come late: after its connections broke, in __del__.
            while readers[0].is_running() and readers[0].status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            time.sleep(0.1)

    monkeypatch.setattr(loop.Reporter, "step", telling)
    with pytest.raises(E2EDeployError, match=r"a process that reads data died .*run\.workers"):
        train_model(small_config(tmp_path, optim={"steps": 500}, run={"workers": 1}))
    assert killed


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (torch.nan, r"the weight unet\.conv_in\.bias is NaN or infinite after step 4"),
        (1e30, r"the prediction for the last images is NaN or infinite after step 4"),
    ],
)
def test_a_step_that_breaks_the_weights_leaves_no_checkpoint_and_no_model(
    tmp_path, monkeypatch, factor, told
):
    run = loop.Stepper.run

    def breaking(self, step, batches, should_stop):
        report = run(self, step, batches, should_stop)
        if report.step == 4:  # of finite loss and gradient
            with torch.no_grad():
                self.forward.model.unet.conv_in.bias.mul_(factor)
                self.forward.model.unet.conv_out.weight.mul_(factor)
        return report

    monkeypatch.setattr(loop.Stepper, "run", breaking)
    with pytest.raises(E2EDeployError, match=told) as caught:
        train_model(
            small_config(tmp_path, optim={"steps": 4}, run={"checkpoint_every": 1, "keep": 2})
        )
    folders = checkpoint_folders(tmp_path / "out" / "checkpoints")
    assert [folder.name for folder in folders] == ["step-00000002", "step-00000003"]
    assert str(folders[1]) in str(caught.value)
    assert not (tmp_path / "out" / "model").exists()


def test_nan_without_end_stops_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "MAX_NONFINITE_IN_A_ROW", 3)
    poison_after(monkeypatch, 0)
    with pytest.raises(
        E2EDeployError, match=r"3 steps in a row, up to step 3: use a lower optim\.lr"
    ):
        train_model(small_config(tmp_path))


def test_full_disk_loses_no_earlier_checkpoint(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits need a POSIX system")
    config = small_config(tmp_path, optim={"steps": 2})
    train_model(config)
    checkpoints = tmp_path / "out" / "checkpoints"
    before = {f: f.read_bytes() for f in checkpoints.rglob("*") if f.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    longer = small_config(tmp_path, optim={"steps": 4}, run={"keep": 1})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(E2EDeployError, match="step 4 could not be written") as caught:
            train_model(longer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "step-00000002 is whole" in str(caught.value)
    assert {f: f.read_bytes() for f in checkpoints.rglob("*") if f.is_file()} == before
    train_model(longer)
    assert [f.name for f in checkpoint_folders(checkpoints)] == ["step-00000004"]


def test_an_interruption_in_an_evaluation_is_answered_between_two_pictures(tmp_path, monkeypatch):
    held_out = {"root": str(tmp_path / "data"), "split": "train", "every": 2, "num_images": 5}
    run = {"checkpoint_every": 100}
    read, seen = HeldOut.read, []

    def reading(self, index):
        seen.append(index)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return read(self, index)

    monkeypatch.setattr(HeldOut, "read", reading)
    config = small_config(tmp_path, optim={"steps": 2}, eval=held_out, run=run)
    with pytest.raises(KeyboardInterrupt):
        train_model(config)
    assert len(seen) == 2
    folders = checkpoint_folders(tmp_path / "out" / "checkpoints")
    assert [folder.name for folder in folders] == ["step-00000002"]
    # The evaluation that was given up is made when the run goes on, and only then.
    assert train_model(config).evaluation.num_images == 5
    assert train_model(config).evaluation is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(tmp_path, number, monkeypatch):
    monkeypatch.setattr(signal, "SIG_IGN", None)  # whoever started the tests may ignore SIGHUP
    config = small_config(tmp_path, optim={"steps": 10_000}, run={"checkpoint_every": 10_000})
    log = tmp_path / "out" / "log.jsonl"

    def send():
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train_model(config)
    thread.join()
    assert signal.getsignal(number) is handler
    (folder,) = checkpoint_folders(tmp_path / "out" / "checkpoints")
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == len(logged(tmp_path / "out")) >= 2
    # The same command goes on where it stopped.
    steps = state["step"] + 1
    assert train_model(small_config(tmp_path, optim={"steps": steps})).progress.step == steps
