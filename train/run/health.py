"""Whether a run still learns; if not, the sentence that ends it.

Knows: what NaN, idle steps and broken weights look like, what to do about each. Does not know: when to save.
"""

from collections.abc import Callable

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.processes.group import agree
from e2e_deploy.train.run.resume import Progress
from e2e_deploy.train.step.step import Stepper
from e2e_deploy.train.step.step_report import StepReport

MAX_NONFINITE_IN_A_ROW = 20
"""fp16 begins with a gradient scale that may be halved a dozen times before the first good step."""

MAX_IDLE_IN_A_ROW = 20
"""Steps in which no image gave a gradient; by chance that happens to a set in which hardly any image has a truth."""

_ADVICE = {
    "fp16": 'use model.precision = "bf16" or "fp32"',
    "bf16": 'use model.precision = "fp32" or a lower optim.lr',
    "fp32": "use a lower optim.lr, and look at the data with `check_data`",
}


class Health:
    """Watches the steps of a run.

    Args:
        stepper: does them.
        progress: of the run, kept up to date by its owner.
        way_back: says which checkpoint the run goes on from.
    """

    def __init__(self, stepper: Stepper, progress: Progress, way_back: Callable[[], str]) -> None:
        self._stepper, self._progress, self._way_back = stepper, progress, way_back
        self._config = stepper.config
        self._idle_in_a_row = 0

    @property
    def in_nan_streak(self) -> bool:
        """Whether the weights may be what gives NaN; one step without a result is the fp16 scaler's way."""
        return self._progress.nonfinite_in_a_row > self._stepper.scaler.is_enabled()

    def check_step(self, report: StepReport) -> None:
        """E2EDeployError if there was no number, or nothing to learn, for too long."""
        self._check_numbers()
        self._check_learning(report)

    def check_weights(self) -> None:
        """E2EDeployError if the step has broken the weights, which are then not kept, measured or written."""
        broken = self._stepper.why_broken()
        if agree(self._stepper.accelerator, broken is not None):
            raise E2EDeployError(
                f"{broken or 'a weight'} is NaN or infinite after step {self._progress.step}: use a lower optim.lr; "
                f"{self._way_back()}"
            )

    def _check_numbers(self) -> None:
        in_a_row, step = self._progress.nonfinite_in_a_row, self._progress.step
        is_last = step == self._config.optim.steps
        if in_a_row < MAX_NONFINITE_IN_A_ROW and not (is_last and self.in_nan_streak):
            return
        raise E2EDeployError(
            f"loss or gradient was NaN or infinite {in_a_row} steps in a row, up to step {step}: "
            f"{_ADVICE[self._config.model.precision]}; {self._way_back()}"
        )

    def _check_learning(self, report: StepReport) -> None:
        self._idle_in_a_row = self._idle_in_a_row + 1 if report.teaches_nothing else 0
        if self._idle_in_a_row < min(MAX_IDLE_IN_A_ROW, self._config.optim.steps):
            return
        raise E2EDeployError(
            f"nothing was learned {self._idle_in_a_row} steps in a row, up to step {report.step}: of the last "
            f"{report.num_images} images {report.num_degenerate} have no usable truth (no or one valid pixel, or "
            f"the same everywhere) and {report.num_flat} get the same prediction everywhere; look at the data with "
            "`check_data`"
        )
