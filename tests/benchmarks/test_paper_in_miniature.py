"""The whole comparison at the smallest size: every variant is trained, predicted by diffusers and scored."""

import json
import sys

import pytest

from benchmarks import report
from benchmarks.accuracy import paper_in_miniature
from e2e_deploy.model.tiny import build_tiny
from tests.train.fixtures import write_folder


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, its results going to the test's folder."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return paper_in_miniature


def test_every_variant_is_trained_and_scored(script, tmp_path, monkeypatch):
    data = write_folder(tmp_path / "data", num_samples=4, splits=("train", "test"))
    start = build_tiny(tmp_path / "start", "depth")
    options = {
        "--data": data,
        "--autoencoder": start,
        "--out": tmp_path / "out",
        "--size": "64x64",
        "--steps": 2,
        "--batch": 2,
        "--views": 1,
        "--fine-tuning-steps": 2,
        "--images": 2,
    }
    words = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["paper_in_miniature.py", *words])
    monkeypatch.setattr(
        script,
        "VARIANTS",
        tuple(
            v if v.ensemble == 1 else script.Variant(v.name, v.weights, steps=2, ensemble=2)
            for v in script.VARIANTS
        ),
    )
    script.main()
    result = json.loads((tmp_path / "results" / "paper_in_miniature.json").read_text())
    rows = {row["name"]: row for row in result["variants"]}
    assert len(rows) == 6
    assert all(0 < row["abs_rel"] < 2 and 0 <= row["delta1"] <= 1 for row in rows.values())
    # The samples are planes in inverse depth: the best plane in depth is close, and no two models agree.
    assert rows["plane over pixel coordinates"]["abs_rel"] < 0.1
    assert len({row["abs_rel"] for row in rows.values()}) == 6
    assert result["held_out_images"] == 2
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"diffusion", "zeros", "gaussian"} <= kept
