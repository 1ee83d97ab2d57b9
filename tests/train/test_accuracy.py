import csv
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.metrics import NormalsAccumulator, depth_metrics, mean_depth_metrics
from e2e_deploy.train.accuracy import Measurement, measure_accuracy, spread_indices
from e2e_deploy.train.data.folder import FolderDataset
from tests.train.fixtures import write_folder


@pytest.fixture
def dataset(tmp_path):
    return FolderDataset(write_folder(tmp_path / "data", num_samples=10))


@dataclass
class Truth:
    """A predictor that knows the answer of the sample it is shown, plus an error."""

    dataset: FolderDataset
    task: str

    def __post_init__(self):
        samples = [self.dataset.read(i) for i in range(len(self.dataset))]
        self.answers = {sample.rgb.tobytes(): (i, sample) for i, sample in enumerate(samples)}

    def __call__(self, frame):
        index, sample = self.answers[frame.tobytes()]
        if self.task == "depth":
            noise = np.random.default_rng(index).normal(0, 0.02 * index, sample.depth_m.shape)
            return (0.1 * sample.depth_m + 0.3 + noise).astype(np.float32)
        turn = np.radians(index)
        rotation = np.array(
            [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
        )
        return sample.normals @ rotation.T


def test_depth_is_the_mean_over_images(dataset, tmp_path):
    predict, seen = Truth(dataset, "depth"), []
    result = measure_accuracy(
        predict,
        dataset,
        kind="depth",
        on_progress=lambda done, total: seen.append((done, total)),
        rows_path=tmp_path / "rows.csv",
        worst_sheet=tmp_path / "worst.png",
    )
    samples = [dataset.read(i) for i in range(10)]
    expected = [depth_metrics(predict(s.rgb), s.depth_m, s.valid) for s in samples]
    assert result.metrics == mean_depth_metrics(expected)
    assert (result.num_images, result.left_out, result.problem) == (10, {}, None)
    assert seen == [(i, 10) for i in range(1, 11)]
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [float(row["abs_rel"]) for row in rows] == [metrics.abs_rel for metrics in expected]
    order = sorted(range(10), key=lambda i: -expected[i].abs_rel)
    assert list(result.worst) == [samples[i].path for i in order[:8]]
    sheet = cv2.imread(str(tmp_path / "worst.png"))
    assert sheet.shape == (8 * (18 + 240), 960, 3)


def inverted(truth, count):
    """Exact depth, near = 1 in the first ``count`` images."""

    def predict(frame):
        index, sample = truth.answers[frame.tobytes()]
        return sample.depth_m * (-0.5 if index < count else 0.5) + 3

    return predict


def test_perfect_affine_depth_has_no_error(dataset):
    result = measure_accuracy(inverted(Truth(dataset, "depth"), 0), dataset, kind="depth")
    assert result.metrics.abs_rel < 1e-6
    assert result.metrics.delta1 == 1
    assert result.metrics.negative_scale == 0
    assert result.problem is None


def test_inverted_depth_has_no_error_but_a_problem(dataset):
    result = measure_accuracy(inverted(Truth(dataset, "depth"), 10), dataset, kind="depth")
    assert result.metrics.abs_rel < 1e-6
    assert result.metrics.negative_scale == 1
    assert "negative in 10 of 10 images" in result.problem


def test_a_few_hard_pictures_do_not_make_a_model_inverted(dataset):
    truth = Truth(dataset, "depth")
    few = measure_accuracy(inverted(truth, 2), dataset, kind="depth")
    assert (few.metrics.negative_scale, few.problem) == (0.2, None)
    many = measure_accuracy(inverted(truth, 3), dataset, kind="depth")
    assert "negative in 3 of 10 images" in many.problem


def test_normals_in_other_axes_are_told(tmp_path):
    root = write_folder(tmp_path / "data", num_samples=4, normals_format="npy")
    rng = np.random.default_rng(0)
    for file in (root / "train" / "normals").iterdir():
        vectors = rng.normal([0, 0.4, 1], 0.5, (48, 64, 3))
        np.save(file, (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("f4"))
    dataset = FolderDataset(root)
    truth = Truth(dataset, "normals")

    def mirrored(frame):
        return truth.answers[frame.tobytes()][1].normals * [-1, 1, 1]

    assert measure_accuracy(truth, dataset, kind="normals").problem is None
    assert "are -x y z of the model" in measure_accuracy(mirrored, dataset, kind="normals").problem


def test_truths_that_fit_anything_never_score(tmp_path):
    root = write_folder(tmp_path / "data", num_samples=6, depth_format="npy", unit_m=1.0)
    depth = root / "train" / "depth"
    np.save(depth / "s000.npy", np.full((48, 64), 3.3, np.float32))
    for stem, count in (("s001", 1), ("s002", 2)):
        sparse = np.zeros((48, 64), np.float32)
        sparse.flat[:count] = [2, 5][:count]
        np.save(depth / f"{stem}.npy", sparse)
    (depth / "s003.npy").unlink()
    dataset = FolderDataset(root)
    result = measure_accuracy(Truth(dataset, "depth"), dataset, kind="depth")
    assert result.num_images == 2
    assert result.left_out == {
        "truth file missing": 1,
        "the same depth everywhere": 1,
        "fewer than 3 valid pixels": 2,
    }
    with pytest.raises(DataError, match="the same depth everywhere: 1"):
        measure_accuracy(Truth(dataset, "depth"), dataset, kind="depth", limit=1)


def test_normals_are_pooled_over_pixels(dataset):
    predict = Truth(dataset, "normals")
    result = measure_accuracy(predict, dataset, kind="normals")
    pooled = NormalsAccumulator()
    for index in range(10):
        sample = dataset.read(index)
        pooled.add(predict(sample.rgb), sample.normals, sample.valid)
    assert result.metrics == pooled.result()
    assert result.metrics.mean_deg > 1


def test_depth_is_clipped_to_the_range(dataset):
    truth = Truth(dataset, "depth")
    far = measure_accuracy(truth, dataset, kind="depth", depth_range_m=(1e-5, 4.0))
    assert far.metrics.abs_rel > measure_accuracy(truth, dataset, kind="depth").metrics.abs_rel


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_shares_add_up_to_the_whole(dataset, task):
    predict = Truth(dataset, task)
    total, *others = (Measurement(task) for _ in range(3))
    for rank, share in enumerate((total, *others)):
        for index in range(10)[rank::3]:
            share.add(index, dataset.read(index), predict)
    for share in others:
        total.merge(share)
    assert total.result() == measure_accuracy(predict, dataset, kind=task)


def test_limit_spreads_over_the_set(dataset):
    assert list(spread_indices(10, 4)) == [0, 2, 5, 7]
    assert list(spread_indices(3, 7)) == [0, 1, 2]
    assert measure_accuracy(Truth(dataset, "depth"), dataset, kind="depth", limit=4).num_images == 4


def test_predictions_that_cannot_be_measured(dataset, tmp_path):
    with pytest.raises(E2EDeployError, match=r"s000\.png: the prediction .* NaN"):
        measure_accuracy(lambda frame: np.full(frame.shape[:2], np.nan), dataset, kind="depth")
    with pytest.raises(E2EDeployError, match="one shape"):
        measure_accuracy(lambda frame: np.zeros((4, 4)), dataset, kind="depth")
    bare = FolderDataset(write_folder(tmp_path / "bare", normals_format=None))
    with pytest.raises(DataError, match="has no normals"):
        measure_accuracy(lambda frame: frame, bare, kind="normals")
