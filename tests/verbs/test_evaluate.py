"""Which of several results evaluate measures on a folder data set."""

from contextlib import contextmanager

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import UsageError
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.verbs import evaluate as module
from e2e_deploy.verbs.subject import Subject
from tests.train.fixtures import write_folder


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", num_samples=3)


@pytest.fixture
def both(data, monkeypatch):
    """Any model gives the true depth, and the true normals turned to the left."""
    dataset = FolderDataset(data)
    samples = [dataset.read(index) for index in range(len(dataset))]
    truth = {sample.rgb.tobytes(): sample for sample in samples}

    def results(frame, resolution, domain):
        sample = truth[frame.tobytes()]
        return {"depth": sample.depth_m, "normals": sample.normals * (-1, 1, 1)}

    @contextmanager
    def opened(model, **given):
        yield Subject(
            name=model,
            identity=lambda: "",
            weights=lambda: "",
            family="geowizard",
            task="geometry",
            kinds=("albedo",) if model == "painter" else ("depth", "normals"),
            backend="pytorch",
            device="cpu",
            precision="fp32",
            ran="a double",
            results=results,
        )

    monkeypatch.setattr(module, "open_subject", opened)


def test_the_first_result_is_measured_and_that_is_said(data, both):
    said = []
    found = e2e.evaluate("model", data, split="train", on_note=said.append)
    assert found.kinds == ("depth",)
    assert found.metrics.abs_rel < 1e-6
    assert said == ["of depth and normals the depth is measured; `result` names another"]


def test_another_result_is_measured_where_it_is_named(data, both):
    said = []
    found = e2e.evaluate("model", data, split="train", result="normals", on_note=said.append)
    assert (found.kinds, said) == (("normals",), [])
    normals = FolderDataset(data).read(0).normals
    known = normals[(normals != 0).any(axis=-1)]
    angles = 2 * np.degrees(np.arctan2(np.abs(known[:, 0]), np.hypot(known[:, 1], known[:, 2])))
    assert found.metrics.mean_deg == pytest.approx(angles.mean(), abs=0.5)


@pytest.mark.parametrize(
    ("model", "result", "said"),
    [
        ("model", "mask", "`result` is 'mask', and the model gives depth and normals"),
        ("painter", None, "holds no truth for albedo"),
    ],
)
def test_a_result_that_cannot_be_measured_is_wrong_usage(data, both, model, result, said):
    with pytest.raises(UsageError, match=said):
        e2e.evaluate(model, data, split="train", result=result)


def test_a_limit_that_leaves_nothing_is_wrong_usage(data, both):
    with pytest.raises(UsageError, match="`limit` is -1; expected at least 1"):
        e2e.evaluate("model", data, split="train", limit=-1)
