"""A training run from its config to a finished model folder.

Knows: the order of things, when to save, evaluate and stop. Does not know: what happens inside a step,
a checkpoint or a data set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.train.accuracy import Evaluation
from e2e_deploy.train.card import RecentDirection, training_facts
from e2e_deploy.train.config import TrainConfig, changed_keys, check_config, config_table
from e2e_deploy.train.data.batches import Batch, MixedBatches, Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pictures import Picture, comparison_row
from e2e_deploy.train.run.best import BestWeights
from e2e_deploy.train.run.failures import failures_said
from e2e_deploy.train.run.heldout import HeldOut
from e2e_deploy.train.run.interruption import Interruption
from e2e_deploy.train.run.report import Reporter
from e2e_deploy.train.run.resume import (
    DataState,
    Progress,
    changed_data,
    checkpoint_folders,
    load_scaler,
    load_weights,
    read_state,
    save_checkpoint,
    way_back,
)
from e2e_deploy.train.start import Start, load_start
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.step import Stepper
from e2e_deploy.train.step.step_report import StepReport

MAX_NONFINITE_IN_A_ROW = 20
"""fp16 begins with a gradient scale that may be halved a dozen times before the first good step."""

MAX_IDLE_IN_A_ROW = 20
"""Steps in which no image gave a gradient; by chance that happens to a set in which hardly any image has a truth."""

UNTRAINED_DIRECTION_WEIGHT = 1.0
"""The term is zero wherever the scale is positive; at this weight it outweighs the paper's loss where that one is
undecided, so that no picture settles on the wrong side."""


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


def train(config: TrainConfig, *, resume: bool = True) -> TrainResult:
    """Train, and write ``<out>/model``.

    Started by ``accelerate launch``, all processes share the work and the first one writes.
    The first Ctrl-C, SIGTERM or SIGHUP saves a checkpoint and leaves; the same call continues.

    Args:
        config: the run.
        resume: continue from the newest checkpoint in ``<out>``; False refuses if there is one.

    Raises:
        UsageError: the config is wrong, or ``<out>`` holds a run with another config.
        CheckpointError: the start or the newest checkpoint cannot be used.
        DataError: a data set is wrong, or a sample is damaged and ``run.on_bad`` is stop.
        UnavailableError: a package or the device for the precision is missing.
        E2EDeployError: loss or gradient stay NaN, memory does not do, a process that reads died, or a file cannot
            be written; the checkpoints from before are whole.
        KeyboardInterrupt: interrupted; the checkpoint is written.
    """
    check_config(config)
    with failures_said(config):
        return _Run(config, resume=resume).finish()


class _Run:
    """The parts of one run in one process."""

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        self.config = config
        self.out = Path(config.run.out)
        self.checkpoints = self.out / "checkpoints"
        newest = _newest(self.checkpoints, config, resume=resume)
        accelerate = require("accelerate", "train")
        # What one process does alone, such as a download, must not end the others that wait for it.
        patience = accelerate.utils.InitProcessGroupKwargs(timeout=timedelta(days=1))
        self.accelerator = accelerate.Accelerator(mixed_precision="no", kwargs_handlers=[patience])
        self.is_main: bool = self.accelerator.is_main_process
        self.out.mkdir(parents=True, exist_ok=True)
        with self.accelerator.main_process_first():
            self.start: Start = load_start(config)
        forward = TrainingForward(
            self.start.model,
            train=config.model.train,
            gradient_checkpointing=config.model.gradient_checkpointing,
        )
        self.direction_weight = config.loss.direction_weight or 0.0
        if config.loss.direction_weight is None and config.task == "depth":
            self.direction_weight = UNTRAINED_DIRECTION_WEIGHT * self.start.is_untrained
        self.stepper = Stepper(
            forward, config, self.accelerator, direction_weight=self.direction_weight
        )
        self._idle_in_a_row = 0
        self.recent = RecentDirection()
        self.data = MixedBatches(
            [
                Part(FolderDataset(part.root, part.split, task=config.task), part.ratio, part.size)
                for part in config.data
            ],
            batch_size=config.optim.micro_batch,
            accumulation=self.stepper.accumulation,
            seed=config.run.seed,
            world=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            task=config.task,
            on_bad=config.run.on_bad,
        )
        datasets = [part.dataset for part in self.data.parts] if self.is_main else []
        self.data_states = {
            f"{data.root} ({data.split})": DataState(images=len(data), sha256=data.fingerprint())
            for data in datasets
        }
        self.held_out = HeldOut(config.eval, config.task) if config.eval else None
        self.best: BestWeights | None = None
        if self.is_main and config.eval and config.eval.select == "best":
            file = self.out / "best.safetensors"
            self.best = BestWeights(file, forward.parts, config.eval, is_fresh=newest is None)
        self.progress = Progress()
        if newest is not None:
            self.progress, _ = read_state(newest)
            named = self.stepper.named_parameters
            load_weights(newest, forward.parts, named, self.stepper.optimizer)
            load_scaler(newest, self.progress.scaler, self.stepper.scaler)
        self.first_step = self.progress.step

    def finish(self) -> TrainResult:
        """Do the steps that are left."""
        progress, steps, run = self.progress, self.config.optim.steps, self.config.run
        checkpoint_due = False
        report: StepReport | None = None
        evaluation: Evaluation | None = None
        with (
            Interruption() as interruption,
            Reporter(
                self.out,
                steps=steps,
                first_step=progress.step,
                log_every=run.log_every,
                enabled=self.is_main,
            ) as reporter,
        ):
            self._introduce(reporter)
            batches = iter(self.data.loader(progress.step, steps, workers=run.workers))
            while progress.step < steps:
                report = self._step(batches, interruption)
                if report is None:
                    reporter.say(f"interrupted; {self._save_interrupted()}")
                    raise KeyboardInterrupt
                reporter.step(report)
                self._stop_if_hopeless()
                self._stop_if_idle(report)
                self.recent.add(report)
                if run.panel_every and progress.step % run.panel_every == 0 and self.is_main:
                    reporter.panel(progress.step, self._panel())
                checkpoint_due |= (
                    progress.step % run.checkpoint_every == 0 or progress.step == steps
                )
                if self._in_nan_streak():
                    continue
                if checkpoint_due or self._is_due(progress.step):
                    self._stop_if_broken()
                if checkpoint_due:
                    self._save()
                    checkpoint_due = False
                if self._is_due(progress.step):
                    evaluation = self._evaluate(reporter)
            model = self.out / "model"
            if self.is_main:
                self._write(model, report, evaluation, reporter.say)
                reporter.say(f"the model is in {model}")
        self.accelerator.wait_for_everyone()
        loss = None if report is None else report.loss
        return TrainResult(
            model=model,
            progress=progress,
            loss=loss,
            evaluation=evaluation,
            is_main=self.is_main,
        )

    def _step(self, batches: Iterator[Batch], interruption: Interruption) -> StepReport | None:
        """One step, with the counters brought up to date; None when the run was interrupted."""
        progress = self.progress
        if self._agree(interruption.requested):
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

    def _agree(self, requested: bool) -> bool:
        """Whether any process was asked to stop; the same answer in all of them."""
        if self.accelerator.num_processes == 1:
            return requested
        flag = torch.tensor([float(requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _in_nan_streak(self) -> bool:
        """Whether the weights may be what gives NaN; one step without a result is the fp16 scaler's way."""
        return self.progress.nonfinite_in_a_row > self.stepper.scaler.is_enabled()

    def _stop_if_hopeless(self) -> None:
        in_a_row = self.progress.nonfinite_in_a_row
        is_last = self.progress.step == self.config.optim.steps
        if in_a_row < MAX_NONFINITE_IN_A_ROW and not (is_last and self._in_nan_streak()):
            return
        advice = {
            "fp16": 'use model.precision = "bf16" or "fp32"',
            "bf16": 'use model.precision = "fp32" or a lower optim.lr',
            "fp32": "use a lower optim.lr, and look at the data with `e2e-deploy data check`",
        }
        raise E2EDeployError(
            f"loss or gradient was NaN or infinite {in_a_row} steps in a row, up to step "
            f"{self.progress.step}: {advice[self.config.model.precision]}; {self._way_back()}"
        )

    def _stop_if_idle(self, report: StepReport) -> None:
        self._idle_in_a_row = self._idle_in_a_row + 1 if report.teaches_nothing else 0
        if self._idle_in_a_row < min(MAX_IDLE_IN_A_ROW, self.config.optim.steps):
            return
        raise E2EDeployError(
            f"nothing was learned {self._idle_in_a_row} steps in a row, up to step {report.step}: of the last "
            f"{report.num_images} images {report.num_degenerate} have no usable truth (no or one valid pixel, or "
            f"the same everywhere) and {report.num_flat} get the same prediction everywhere; look at the data with "
            "`e2e-deploy data check`"
        )

    def _stop_if_broken(self) -> None:
        """Keep, measure and write no weights that the step has broken."""
        broken = self.stepper.why_broken()
        if self._agree(broken is not None):
            raise E2EDeployError(
                f"{broken or 'a weight'} is NaN or infinite after step {self.progress.step}: use a lower optim.lr; "
                f"{self._way_back()}"
            )

    def _way_back(self) -> str:
        progress = self.progress
        bad_since = progress.step - progress.nonfinite_in_a_row
        return way_back(self.checkpoints, bad_since=bad_since, resumed_at=self.first_step)

    def _save_interrupted(self) -> str:
        """Save where the run stops, unless the weights may be broken; says what there is."""
        if self._in_nan_streak():
            return f"the last steps gave NaN and are not saved; {self._way_back()}"
        if self.progress.step > self.first_step:
            self._stop_if_broken()
        self._save()
        return f"step {self.progress.step} is saved"

    def _save(self) -> None:
        self.progress.data = self.data_states
        self.progress.scaler = self.stepper.scaler.state_dict()
        if self.is_main:
            save_checkpoint(
                self.checkpoints,
                self.progress,
                config_table(self.config),
                self.stepper.forward.parts,
                self.stepper.named_parameters,
                self.stepper.optimizer,
                keep=self.config.run.keep,
            )
        self.accelerator.wait_for_everyone()

    def _is_due(self, step: int) -> bool:
        if self.config.eval is None:
            return False
        return step % self.config.eval.every == 0 or step == self.config.optim.steps

    def _evaluate(self, reporter: Reporter) -> Evaluation | None:
        """Measure in all processes, each its share; the first one tells."""
        if self.held_out is None:
            return None
        try:
            result = self.held_out.measure(self.stepper)
        except DataError as error:
            if self.config.run.on_bad == "stop":
                raise
            reporter.say(f"the held-out pictures could not be measured: {error}")
            return None
        reporter.evaluation(self.progress.step, result.values(), result.problem)
        if result.left_out:
            counts = ", ".join(f"{reason}: {count}" for reason, count in result.left_out.items())
            reporter.say(f"  held-out pictures that were not measured: {counts}")
        if self.best and self.best.offer(self.progress.step, result):
            reporter.say(
                f"step {self.progress.step}  held-out: the best so far, kept in {self.best.file}"
            )
        return result

    def _panel(self) -> Picture:
        """The first picture of the last micro-batch: rgb, target, prediction."""
        batch, prediction = self.stepper.last
        rgb = ((batch["rgb"][0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        guess = prediction[0].float().cpu().permute(1, 2, 0).numpy()
        valid = batch["valid"][0, 0].numpy()
        if self.config.task == "depth":
            return comparison_row(rgb, batch["depth_m"][0, 0].numpy(), guess[..., 0], valid)
        return comparison_row(rgb, batch["normals"][0].permute(1, 2, 0).numpy(), guess, valid)

    def _introduce(self, reporter: Reporter) -> None:
        optim, stepper = self.config.optim, self.stepper
        reporter.say(f"start: {self.start.checkpoint.describe()}")
        for change in self.start.changes:
            reporter.say(f"  {change}")
        million = sum(p.numel() for _, p in stepper.named_parameters) / 1e6
        for part in self.data.parts:
            reporter.say(
                f"data: {part.dataset.root} ({part.dataset.split}), {len(part.dataset)} images, "
                f"ratio {part.weight}"
            )
        held_out = [self.held_out.dataset] if self.held_out else []
        for dataset in (*(part.dataset for part in self.data.parts), *held_out):
            if sentence := dataset.left_out_sentence():
                reporter.say(f"  {sentence}")
        reporter.say(
            f"training {' and '.join(stepper.forward.parts)} ({million:.1f} million weights) for "
            f"{self.config.task} on {stepper.device}, {self.config.model.precision}: "
            f"{optim.steps} steps of {optim.effective_batch} images = {optim.micro_batch} x "
            f"{stepper.accumulation} x {self.accelerator.num_processes} processes"
        )
        if self.direction_weight:
            reporter.say(f"  and against inverted depth, with weight {self.direction_weight:g}")
        if self.progress.step:
            reporter.say(f"continuing after step {self.progress.step}")
            for sentence in changed_data(self.progress.data, self.data_states):
                reporter.say(f"  {sentence}")

    def _write(
        self,
        model: Path,
        report: StepReport | None,
        evaluation: Evaluation | None,
        say: Callable[[str], None],
    ) -> None:
        if report is None and (model / "model_index.json").is_file():
            return  # the run was finished before
        chosen = self.best.best if self.best else None
        if self.best and chosen:
            self.best.load()
            say(f"the model is that of step {chosen.step}, the best on the held-out pictures")
        facts, note = training_facts(
            self.config,
            self.start,
            self.data.parts,
            steps=self.progress.step,
            evaluation=evaluation,
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
                resolution=self.config.model.resolution or self.start.checkpoint.resolution,
                trained=facts,
                note=note,
                on_note=say,
            )
        except E2EDeployError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise E2EDeployError(
                f"{error}; step {self.progress.step} is saved: free space and run the same command to write the model"
            ) from error


def _newest(checkpoints: Path, config: TrainConfig, *, resume: bool) -> Path | None:
    """The checkpoint to continue from, or None for a fresh run."""
    folders = checkpoint_folders(checkpoints)
    if not folders:
        return None
    newest = folders[-1]
    if not resume:
        raise UsageError(
            f"{checkpoints.parent} holds a run ({newest.name}): continue it, or name another out"
        )
    _, old = read_state(newest)
    changed = changed_keys(old, config_table(config))
    if changed:
        raise UsageError(
            f"{checkpoints.parent} holds a run with other settings ({', '.join(changed)}): "
            "restore them, or name another out"
        )
    return newest
