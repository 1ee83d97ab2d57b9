"""An evaluation that was stopped goes on, and ends with what an unbroken one gives, to the last bit."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.protocol.catalogue import SETS
from e2e_deploy.train.protocol.measuring.measure import measure_set
from e2e_deploy.train.protocol.measuring.rows import read_rows

ROOT = Path(__file__).parents[4]


class Drawn:
    """Six samples of random truth; the third has none. ``reads`` are those that were asked for."""

    def __init__(self):
        self.left_out, self.reads = {"truth file missing": 2}, []

    def __len__(self):
        return 6

    def name(self, index):
        return f"{index}.png"

    def read(self, index):
        self.reads.append(index)
        draw = np.random.default_rng(index)
        normals = draw.normal(size=(8, 9, 3)).astype(np.float32)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        valid = draw.random((8, 9)) < 0.7
        if index == 2:
            valid[:] = False
        return Sample(
            rgb=np.full((8, 9, 3), index, np.uint8),
            depth_m=np.where(valid, draw.uniform(1, 9, (8, 9)), 0).astype(np.float32),
            normals=normals * valid[..., None],
            valid=valid,
            path=f"/data/{index}.png",
        )


def predict(frame):
    return np.random.default_rng(100 + frame[0, 0, 0]).random((8, 9))


def predict_normals(frame):
    return np.random.default_rng(100 + frame[0, 0, 0]).normal(size=(8, 9, 3))


class StopError(Exception):
    pass


def breaks_at(index, predictor):
    def shown(frame):
        if frame[0, 0, 0] == index:
            raise StopError
        return predictor(frame)

    return shown


KINDS = [("depth", predict, "depth"), ("normals", predict_normals, "normals")]


def measure(log, predictor, kind, measure_name, samples, said=None):
    each = SETS[measure_name]["nyuv2"]
    note = (said if said is not None else []).append
    return measure_set(predictor, samples, each, kind, range(6), log, on_note=note)


def without_times(measured):
    return (
        measured.metrics,
        measured.left_out,
        measured.problem,
        [(row.index, row.picture, row.metrics, row.left_out) for row in measured.rows],
    )


@pytest.mark.parametrize(("kind", "predictor", "name"), KINDS)
@pytest.mark.parametrize("stop", [0, 1, 4, 5])
def test_a_stopped_evaluation_ends_as_an_unbroken_one(tmp_path, kind, predictor, name, stop):
    whole = measure(tmp_path / "whole.rows.jsonl", predictor, kind, name, Drawn())
    log = tmp_path / "broken.rows.jsonl"
    with pytest.raises(StopError):
        measure(log, breaks_at(stop, predictor), kind, name, Drawn())
    assert [row.index for row in read_rows(log)] == list(range(stop))
    samples = Drawn()
    again = measure(log, predictor, kind, name, samples)
    assert samples.reads == list(range(stop, 6))
    assert without_times(again) == without_times(whole)
    assert whole.left_out == {"truth file missing": 2, "no valid pixel": 1}


KILLED = """
import sys, time
from pathlib import Path
from tests.train.protocol.measuring.test_resuming import Drawn, measure, predict_normals

def waits(frame):
    if frame[0, 0, 0] == 4:
        time.sleep(600)
    return predict_normals(frame)

measure(Path(sys.argv[1]), waits, "normals", "normals", Drawn())
"""


def test_a_killed_process_leaves_rows_that_another_goes_on_from(tmp_path):
    whole = measure(tmp_path / "whole.rows.jsonl", predict_normals, "normals", "normals", Drawn())
    log = tmp_path / "killed.rows.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, log], cwd=ROOT)
    try:
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") == 4):
            time.sleep(0.05)
        with pytest.raises(UsageError, match="another process measures this"):
            measure(log, predict_normals, "normals", "normals", Drawn())
    finally:
        process.kill()
        process.wait()
    samples = Drawn()
    again = measure(log, predict_normals, "normals", "normals", samples)
    assert samples.reads in ([4, 5], [3, 4, 5])  # the fourth row may have come before its angles
    assert without_times(again) == without_times(whole)


@pytest.mark.parametrize(("kind", "predictor", "name"), KINDS)
def test_a_row_that_a_kill_tore_is_measured_again(tmp_path, kind, predictor, name):
    log = tmp_path / "x.rows.jsonl"
    whole = measure(log, predictor, kind, name, Drawn())
    log.write_bytes(log.read_bytes()[:-20])
    samples, said = Drawn(), []
    assert without_times(measure(log, predictor, kind, name, samples, said)) == without_times(whole)
    # Pooled angles already hold the image whose row is torn, and cannot give it back.
    assert samples.reads == ([5] if kind == "depth" else list(range(6)))
    assert said


def test_a_row_without_its_pooled_angles_is_measured_again(tmp_path):
    """Killed between the two writes: the row is there, and what is pooled is of one image less."""
    log, pool = tmp_path / "x.rows.jsonl", tmp_path / "x.rows.angles.npz"
    with pytest.raises(StopError):
        measure(log, breaks_at(4, predict_normals), "normals", "normals", Drawn())
    older = pool.read_bytes()
    whole = measure(log, predict_normals, "normals", "normals", Drawn())
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))
    pool.write_bytes(older)
    samples = Drawn()
    again = measure(log, predict_normals, "normals", "normals", samples)
    assert samples.reads == [4, 5]
    assert without_times(again) == without_times(whole)


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_pooled_angles_that_are_lost_or_damaged_are_measured_anew(tmp_path, content):
    log, said = tmp_path / "x.rows.jsonl", []
    whole = measure(log, predict_normals, "normals", "normals", Drawn())
    pool = tmp_path / "x.rows.angles.npz"
    pool.unlink() if content is None else pool.write_bytes(content)
    samples = Drawn()
    again = measure(log, predict_normals, "normals", "normals", samples, said)
    assert samples.reads == list(range(6))
    assert without_times(again) == without_times(whole)
    assert any("measured anew" in note for note in said)


def test_a_measured_image_is_not_predicted_again(tmp_path):
    log = tmp_path / "x.rows.jsonl"
    whole = measure(log, predict, "depth", "depth", Drawn())
    assert without_times(measure(log, None, "depth", "depth", Drawn())) == without_times(whole)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda frame: np.full((8, 9), np.nan), "NaN or infinite"),
        (lambda frame: np.zeros((8, 8)), "one shape"),
    ],
)
def test_a_prediction_that_cannot_be_measured_names_the_picture(tmp_path, wrong, said):
    with pytest.raises(E2EDeployError, match=rf"/data/0\.png: .*{said}"):
        measure(tmp_path / "x.rows.jsonl", wrong, "depth", "depth", Drawn())


def test_nothing_to_measure_is_a_sentence(tmp_path):
    each = SETS["depth"]["nyuv2"]
    with pytest.raises(DataError, match="NYUv2: none of its images can be measured"):
        measure_set(predict, Drawn(), each, "depth", [2], tmp_path / "x.rows.jsonl")


def test_inverted_depth_is_a_problem(tmp_path):
    samples = Drawn()
    truth = {i: samples.read(i).depth_m for i in range(6)}
    measured = measure(
        tmp_path / "x.rows.jsonl", lambda f: -truth[int(f[0, 0, 0])], "depth", "depth", samples
    )
    assert measured.metrics["abs_rel"] < 1e-6
    assert "the depth is inverted" in measured.problem


def test_a_row_with_other_numbers_is_a_sentence(tmp_path):
    log = tmp_path / "x.rows.jsonl"
    measure(log, predict, "depth", "depth", Drawn())
    log.write_text(log.read_text().replace('"abs_rel"', '"abs_rle"'))
    with pytest.raises(DataError, match=r"the row of 0\.png is damaged"):
        measure(log, predict, "depth", "depth", Drawn())
