import csv
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.metrics import NormalsAccumulator, depth_metrics, mean_depth_metrics
from e2e_deploy.train.evaluate import evaluate, spread_indices
from e2e_deploy.train.folder import FolderDataset
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
    result = evaluate(
        predict,
        dataset,
        task="depth",
        on_progress=lambda done, total: seen.append((done, total)),
        csv_path=tmp_path / "rows.csv",
        worst_sheet=tmp_path / "worst.png",
    )
    samples = [dataset.read(i) for i in range(10)]
    expected = [depth_metrics(predict(s.rgb), s.depth_m, s.valid) for s in samples]
    assert result.metrics == mean_depth_metrics(expected)
    assert (result.num_images, result.num_empty) == (10, 0)
    assert seen == [(i, 10) for i in range(1, 11)]
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [float(row["abs_rel"]) for row in rows] == [metrics.abs_rel for metrics in expected]
    order = sorted(range(10), key=lambda i: -expected[i].abs_rel)
    assert list(result.worst) == [samples[i].path for i in order[:8]]
    sheet = cv2.imread(str(tmp_path / "worst.png"))
    assert sheet.shape == (8 * (18 + 240), 960, 3)


def test_perfect_affine_depth_has_no_error(dataset):
    truth = Truth(dataset, "depth")
    exact = lambda frame: 3 - 0.5 * truth.answers[frame.tobytes()][1].depth_m  # noqa: E731
    result = evaluate(exact, dataset, task="depth")
    assert result.metrics.abs_rel < 1e-6
    assert result.metrics.delta1 == 1


def test_disparity_is_fitted_in_disparity(dataset):
    truth = Truth(dataset, "depth")

    def disparity(frame):
        return 5 / truth.answers[frame.tobytes()][1].depth_m

    assert evaluate(disparity, dataset, task="depth", alignment="disparity").metrics.abs_rel < 1e-5
    assert evaluate(disparity, dataset, task="depth").metrics.abs_rel > 0.005


def test_normals_are_pooled_over_pixels(dataset):
    predict = Truth(dataset, "normals")
    result = evaluate(predict, dataset, task="normals")
    pooled = NormalsAccumulator()
    for index in range(10):
        sample = dataset.read(index)
        pooled.add(predict(sample.rgb), sample.normals, sample.valid)
    assert result.metrics == pooled.result()
    assert result.metrics.mean_deg > 1


def test_depth_is_clipped_to_the_range(dataset):
    truth = Truth(dataset, "depth")
    far = evaluate(truth, dataset, task="depth", depth_range_m=(1e-5, 4.0))
    assert far.metrics.abs_rel > evaluate(truth, dataset, task="depth").metrics.abs_rel


def test_limit_spreads_over_the_set(dataset):
    assert list(spread_indices(10, 4)) == [0, 2, 5, 7]
    assert list(spread_indices(3, 7)) == [0, 1, 2]
    assert evaluate(Truth(dataset, "depth"), dataset, task="depth", limit=4).num_images == 4


def test_predictions_that_cannot_be_measured(dataset, tmp_path):
    with pytest.raises(E2EDeployError, match=r"s000\.png: the prediction .* NaN"):
        evaluate(lambda frame: np.full(frame.shape[:2], np.nan), dataset, task="depth")
    with pytest.raises(E2EDeployError, match="one shape"):
        evaluate(lambda frame: np.zeros((4, 4)), dataset, task="depth")
    bare = FolderDataset(write_folder(tmp_path / "bare", normals_format=None))
    with pytest.raises(DataError, match="has no normals"):
        evaluate(lambda frame: frame, bare, task="normals")
