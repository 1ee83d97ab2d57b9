from types import SimpleNamespace

import numpy as np
import pytest

from e2e_deploy.kinds import KINDS
from e2e_deploy.train.accuracy import Measurement, joined
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.run.card import RECENT_STEPS, RecentDirection, training_facts
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


@pytest.mark.parametrize("is_measured", [True, False])
def test_of_two_results_the_one_with_a_problem_is_named(tmp_path, is_measured):
    recent = RecentDirection()
    recent.add(report(num_negative=8))
    kinds = [KINDS["depth"], KINDS["normals"]]
    checkpoint = SimpleNamespace(id="start", path=tmp_path, sha256=lambda: "ab")
    table = {"task": "geometry", "start": {"checkpoint": "start"}, "run": {"out": "out"}}
    facts, note = training_facts(
        parse_config(table | {"data": [{"root": "data"}]}),
        SimpleNamespace(model=SimpleNamespace(kinds=kinds), checkpoint=checkpoint),
        [],
        steps=1,
        evaluation=inverted_depth_and_good_normals() if is_measured else None,
        best=None,
        recent=recent,
    )
    assert note == "inverted depth"
    assert "the fitted scale" in facts["problem"]


def inverted_depth_and_good_normals():
    draw = np.random.default_rng(0)
    depth_m = draw.uniform(1, 2, (6, 8)).astype(np.float32)
    normals = draw.standard_normal((6, 8, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    rgb, valid = np.zeros((6, 8, 3), np.uint8), np.ones((6, 8), bool)
    sample = Sample(rgb=rgb, depth_m=depth_m, normals=normals, valid=valid, path="a")
    found = []
    for kind, result in (("depth", -depth_m), ("normals", normals)):
        measured = Measurement(kind)
        measured.add(0, sample, lambda _frame, result=result: result)
        found.append(measured.result())
    return joined(*found)
