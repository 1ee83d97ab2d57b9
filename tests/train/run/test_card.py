import pytest

from e2e_deploy.train.run.card import RECENT_STEPS, RecentDirection
from e2e_deploy.train.step.step_report import StepReport


def report(**changes):
    counts = dict.fromkeys(("num_degenerate", "num_flat", "num_negative", "num_bad"), 0)
    values = {"step": 1, "loss": 1.0, "direction": 0.0, "grad_norm": 1.0, "lr": 1e-3}
    return StepReport(**(values | counts | {"num_images": 8, "skipped": False} | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_negative": 2}, None),
        ({"num_negative": 3}, "negative in 30 of the last 80 training images"),
        ({"num_negative": 2, "num_degenerate": 4}, "negative in 20 of the last 40"),
        ({"num_degenerate": 8}, None),
    ],
)
def test_a_quarter_of_the_images_with_truth_may_be_negative(changes, problem):
    recent = RecentDirection()
    for _ in range(10):
        recent.add(report(**changes))
    assert (recent.problem() or "").partition("was ")[2].startswith(problem or "")
    assert (recent.problem() is None) == (problem is None)


def test_what_was_long_ago_is_forgotten():
    recent = RecentDirection()
    assert recent.problem() is None
    for _ in range(1000):
        recent.add(report(num_negative=8))
    for _ in range(RECENT_STEPS):
        recent.add(report())
    assert recent.problem() is None
