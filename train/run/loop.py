"""One training run from its config to a finished model folder.

Knows: the order of things, when to save, evaluate and stop. Does not know: what happens inside a step,
a checkpoint or a data set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.train.accuracy import Evaluation
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.reading import changed_keys, config_table
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.batches import Batch, MixedBatches, Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pictures import Picture, comparison_row
from e2e_deploy.train.processes.group import agree, join_processes
from e2e_deploy.train.run.best import BestWeights
from e2e_deploy.train.run.card import RecentDirection, is_result, training_facts
from e2e_deploy.train.run.failures import failures_said
from e2e_deploy.train.run.health import Health
from e2e_deploy.train.run.heldout import HeldOut, results_of
from e2e_deploy.train.run.interruption import Interruption
from e2e_deploy.train.run.introduction import introduction
from e2e_deploy.train.run.report import Reporter
from e2e_deploy.train.run.resume import (
    DataState,
    Progress,
    checkpoint_folders,
    load_scaler,
    load_weights,
    read_state,
    save_checkpoint,
    way_back,
)
from e2e_deploy.train.sharding.slices import save_together
from e2e_deploy.train.start import Start, load_start, prepared_in
from e2e_deploy.train.step.ready import ready_stepper
from e2e_deploy.train.step.step import Stepper
from e2e_deploy.train.step.step_report import StepReport


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a finished run gives."""

    model: Path
    """Diffusers folder of the trained model."""
    progress: Progress
    loss: float | None
    """Of the last step; None when there was nothing left to do."""
    evaluation: Evaluation | None
    """On the held-out pictures at the end, if the config names some."""
    is_main: bool
    """Whether this is the first process, the one that wrote."""


def train_run(config: TrainConfig, *, resume: bool = True) -> TrainResult:
    """Do one run, without those that follow; arguments and errors as of ``train_model``."""
    with failures_said(config):
        return _Run(config, resume=resume).finish()


class _Run:
    """The parts of one run in one process."""

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        self.config = config
        self.out = Path(config.run.out)
        self.checkpoints = self.out / "checkpoints"
        newest = _newest(self.checkpoints, config, resume=resume)
        self.accelerator = join_processes()
        self.is_main: bool = self.accelerator.is_main_process
        self.out.mkdir(parents=True, exist_ok=True)
        with self.accelerator.main_process_first():
            self.start: Start = load_start(config, self.accelerator.device)
        self.resolution = config.model.resolution or self.start.checkpoint.resolution
        self.stepper = ready_stepper(config, self.start, self.accelerator)
        self.data = _batches(config, self.stepper)
        self.data_states = _states(self.data.parts) if self.is_main else {}
        self.held_out = HeldOut(config.eval, config.task) if config.eval else None
        self.best = self._best_weights(is_fresh=newest is None)
        self.progress = self._restored(newest)
        self.first_step = self.progress.step
        self.health = Health(self.stepper, self.progress, self._way_back)
        self.recent = RecentDirection()
        self.last: StepReport | None = None
        self.evaluation: Evaluation | None = None
        self._is_save_due = False

    def _best_weights(self, *, is_fresh: bool) -> BestWeights | None:
        if not self.is_main or self.held_out is None or self.held_out.config.select != "best":
            return None
        return BestWeights(
            self.out / "best.safetensors",
            self.stepper.forward.parts,
            self.held_out.config,
            pictures=self.held_out.dataset.fingerprint(),
            is_fresh=is_fresh,
        )

    def _restored(self, newest: Path | None) -> Progress:
        """Progress of the newest checkpoint, whose weights are loaded; that of a fresh run without one."""
        if newest is None:
            return Progress()
        stepper = self.stepper
        progress, _ = read_state(newest)
        load_weights(
            newest,
            stepper.forward.parts,
            stepper.named_parameters,
            stepper.optimizer,
            progress.shards,
        )
        load_scaler(newest, progress.scaler, stepper.scaler)
        return progress

    def finish(self) -> TrainResult:
        """Do the steps that are left, and write the model."""
        reporter = Reporter(
            self.out,
            steps=self.config.optim.steps,
            first_step=self.first_step,
            log_every=self.config.run.log_every,
            enabled=self.is_main,
        )
        self.recent.recall(reporter.earlier, self.first_step)
        with Interruption() as interruption, reporter:
            for line in introduction(
                self.start,
                self.stepper,
                self.data.parts,
                self.held_out,
                self.progress,
                self.data_states,
            ):
                reporter.say(line)
            self._evaluate_what_was_missed(reporter, interruption)
            self._do_steps(reporter, interruption)
            model = self.out / "model"
            if self.stepper.sharding is not None:
                self.stepper.sharding.undo(keep=self.is_main)
            if self.is_main:
                self._write(model, reporter.say)
                reporter.say(f"the model is in {model}")
        self.accelerator.wait_for_everyone()
        return TrainResult(
            model=model,
            progress=self.progress,
            loss=None if self.last is None else self.last.loss,
            evaluation=self.evaluation,
            is_main=self.is_main,
        )

    def _do_steps(self, reporter: Reporter, interruption: Interruption) -> None:
        progress, run, steps = self.progress, self.config.run, self.config.optim.steps
        batches = iter(self.data.loader(progress.step, steps, workers=run.workers))
        while progress.step < steps:
            report = self._step(batches, interruption)
            if report is None:
                self._leave(reporter)
            self.last = report
            reporter.step(report)
            self.health.check_step(report)
            self.recent.add(report)
            if run.panel_every and progress.step % run.panel_every == 0:
                with self.stepper.whole_weights():
                    if self.is_main:
                        reporter.panel(progress.step, self._panel())
            self._save_and_evaluate(reporter, interruption)

    def _step(self, batches: Iterator[Batch], interruption: Interruption) -> StepReport | None:
        """One step, with the counters brought up to date; None when the run was interrupted."""
        progress = self.progress
        if agree(self.accelerator, interruption.requested):
            return None
        try:
            report = self.stepper.run(progress.step, batches, lambda: interruption.requested)
        except (RuntimeError, ConnectionError, EOFError):
            # Ctrl-C reaches the reading processes too; what they leave behind is no error.
            if interruption.requested and self.accelerator.num_processes == 1:
                return None
            raise
        if report is None:
            return None
        progress.step = report.step
        progress.num_degenerate += report.num_degenerate
        progress.num_bad += report.num_bad
        progress.num_nonfinite += report.skipped
        progress.nonfinite_in_a_row = progress.nonfinite_in_a_row + 1 if report.skipped else 0
        return report

    def _save_and_evaluate(self, reporter: Reporter, interruption: Interruption) -> None:
        """What is due after this step; while it gives NaN a checkpoint waits, and an evaluation is left out."""
        step = self.progress.step
        is_last = step == self.config.optim.steps
        self._is_save_due |= is_last or step % self.config.run.checkpoint_every == 0
        if self.health.in_nan_streak:
            return
        if self._is_save_due or self._is_evaluation_due(step):
            self.health.check_weights()
        if self._is_save_due:
            self._save()
            self._is_save_due = False
        if self._is_evaluation_due(step):
            self._evaluate(reporter, interruption)

    def _leave(self, reporter: Reporter) -> NoReturn:
        """Save where the run stops, unless the weights may be broken, and say what there is."""
        if self.health.in_nan_streak:
            saved = f"the last steps gave NaN and are not saved; {self._way_back()}"
        else:
            if self.progress.step > self.first_step:
                self.health.check_weights()
            self._save()
            saved = f"step {self.progress.step} is saved"
        reporter.say(f"interrupted; {saved}")
        raise KeyboardInterrupt

    def _save(self) -> None:
        self.progress.data = self.data_states
        self.progress.scaler = self.stepper.scaler.state_dict()
        stepper = self.stepper

        def save(fill_shards: Callable[[Path], None] | None = None) -> None:
            save_checkpoint(
                self.checkpoints,
                self.progress,
                config_table(self.config),
                stepper.forward.parts,
                stepper.named_parameters,
                stepper.optimizer,
                keep=self.config.run.keep,
                fill_shards=fill_shards,
            )

        if stepper.sharding is not None:
            save_together(self.accelerator, stepper.named_parameters, stepper.optimizer, save)
        elif self.is_main:
            save()
        self.accelerator.wait_for_everyone()

    def _way_back(self) -> str:
        bad_since = self.progress.step - self.progress.nonfinite_in_a_row
        return way_back(self.checkpoints, bad_since=bad_since, resumed_at=self.first_step)

    def _is_evaluation_due(self, step: int) -> bool:
        if self.config.eval is None:
            return False
        return step % self.config.eval.every == 0 or step == self.config.optim.steps

    def _evaluate_what_was_missed(self, reporter: Reporter, interruption: Interruption) -> None:
        """The run ended after the step that it goes on from: in an evaluation, or before its model was there."""
        step = self.first_step
        evaluated = {entry["step"] for entry in reporter.earlier if "evaluation" in entry}
        is_needed = step == self.config.optim.steps and not self._is_written()
        is_missed = self.is_main and step > 0 and (step not in evaluated or is_needed)
        if self._is_evaluation_due(step) and agree(self.accelerator, is_missed):
            self._evaluate(reporter, interruption)

    def _evaluate(self, reporter: Reporter, interruption: Interruption) -> None:
        """Measure in all processes, each its share; the first one tells."""
        assert self.held_out is not None
        try:
            with self.stepper.whole_weights():
                result = self.held_out.measure(self.stepper, lambda: interruption.requested)
        except DataError as error:
            if self.config.run.on_bad == "stop":
                raise
            reporter.say(f"the held-out pictures could not be measured: {error}")
            return
        if result is None:
            self._leave(reporter)
        self.evaluation, step = result, self.progress.step
        reporter.evaluation(step, result.values(), result.problem)
        if result.left_out:
            counts = ", ".join(f"{reason}: {count}" for reason, count in result.left_out.items())
            reporter.say(f"  held-out pictures that were not measured: {counts}")
        if self.best and self.best.offer(step, result):
            reporter.say(f"step {step}  held-out: the best so far, kept in {self.best.file}")

    def _panel(self) -> Picture:
        """The first picture of the last micro-batch: rgb, target, prediction; a row for every result."""
        batch = self.stepper.last
        rgb = ((batch["rgb"][0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        valid, rows = batch["valid"][0, 0].numpy(), []
        for kind, result in zip(self.start.model.kinds, results_of(self.stepper, rgb), strict=True):
            target = batch["depth_m"][0]
            if kind.form == "vectors":
                target = batch["normals"][0]
            elif kind.form == "picture":
                target = (batch["picture"][0] + 1) / 2
            truth = target.permute(1, 2, 0).numpy()
            truth = truth[..., 0] if kind.channels == 1 else truth
            rows.append(comparison_row(rgb, truth, result, valid, kind.name))
        return np.concatenate(rows)

    def _is_written(self) -> bool:
        """Whether the run was finished before, and its model is what the config asks for."""
        return self.last is None and is_result(
            self.out / "model",
            steps=self.progress.step,
            best=self.best,
            resolution=self.resolution,
        )

    def _write(self, model: Path, say: Callable[[str], None]) -> None:
        if self._is_written():
            return
        chosen = self.best.best if self.best else None
        if self.best and chosen:
            self.best.load()
            say(f"the model is that of step {chosen.step}, the best on the held-out pictures")
        facts, note = training_facts(
            self.config,
            self.start,
            self.data.parts,
            steps=self.progress.step,
            evaluation=self.evaluation,
            best=chosen,
            recent=self.recent,
        )
        if note:
            say(f"the model is marked as {note!r}: {facts['problem']}")
        try:
            write_model(
                model,
                self.start.model,
                self.start.checkpoint,
                resolution=self.resolution,
                schedule=self.stepper.objective.schedule,
                steps=self.config.diffusion.measured_steps if self.config.diffusion else 1,
                trained=facts,
                note=note,
                on_note=say,
            )
        except E2EDeployError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise E2EDeployError(
                f"{error}; step {self.progress.step} is saved: free space and run it again to write the model"
            ) from error


def _batches(config: TrainConfig, stepper: Stepper) -> MixedBatches:
    return MixedBatches(
        [
            Part(
                FolderDataset(part.root, part.split, task=config.task, cache_gb=part.cache_gb),
                part.ratio,
                part.size,
            )
            for part in config.data
        ],
        batch_size=config.optim.micro_batch,
        per_step=config.optim.effective_batch // config.optim.micro_batch,
        seed=config.run.seed,
        world=stepper.accelerator.num_processes,
        rank=stepper.accelerator.process_index,
        task=config.task,
        on_bad=config.run.on_bad,
        change=None if config.augment is None else Augmentation(config.augment),
    )


def _states(parts: tuple[Part, ...]) -> dict[str, DataState]:
    """What the data sets are now, by ``folder (split)``."""
    datasets = [part.dataset for part in parts]
    return {
        f"{data.root} ({data.split})": DataState(images=len(data), sha256=data.fingerprint())
        for data in datasets
    }


def _newest(checkpoints: Path, config: TrainConfig, *, resume: bool) -> Path | None:
    """The checkpoint to continue from, or None for a fresh run."""
    folders = checkpoint_folders(checkpoints)
    if not resume and (before := prepared_in(checkpoints.parent)) is not None:
        raise UsageError(f"{before} is there already: continue it, or name another `out`")
    if not folders:
        return None
    newest = folders[-1]
    if not resume:
        raise UsageError(
            f"{checkpoints.parent} holds a run ({newest.name}): continue it, or name another `out`"
        )
    _, old = read_state(newest)
    changed = changed_keys(old, config_table(config))
    if changed:
        raise UsageError(
            f"{checkpoints.parent} holds a run with other settings ({', '.join(changed)}): "
            "restore them, or name another `out`"
        )
    return newest
