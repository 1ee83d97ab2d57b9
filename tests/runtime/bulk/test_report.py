"""What a run tells of itself: rates of this run alone, what its pictures had, failures in order."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as parquet
import pytest

import e2e_deploy as e2e
from e2e_deploy.runtime.bulk import bulk as bulk_module
from e2e_deploy.runtime.bulk import writing
from e2e_deploy.runtime.bulk.parcel import Failure, Parcel
from e2e_deploy.runtime.bulk.report import BulkReport, report_files
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import without_ray, write_pictures


def test_rates_are_of_this_run():
    """100 of 150 were done before; 50 in 10 s by two engines, which computed for 15 s of their 20."""
    report = BulkReport(150, Path("out"), workers=2, before=100, written=147, seconds=10.0)
    report.failures = [Failure(n, "p", "r") for n in range(3)]
    report.stage_seconds = {"engine": 15.0, "decode": 0.0}
    assert report.per_second == 5
    assert report.utilisation == 0.75
    values = report.values()
    assert values["stage_pictures_per_second"] == {"engine": 50 / 15}
    assert (values["failures"], values["finished"], values["out"]) == (3, 150, "out")
    assert BulkReport(1, Path("out")).per_second == BulkReport(1, Path("out")).utilisation == 0


def test_complete_means_numbers_for_every_picture():
    assert BulkReport(3, Path("out"), written=3).complete
    assert not BulkReport(3, Path("out"), written=2).complete
    assert not BulkReport(3, Path("out"), written=3, unknown_results=1).complete


def test_notes_are_few_and_each_once():
    report = BulkReport(9, Path("out"))
    for shard in range(30):
        notes = [f"picture {shard} {n} is turned" for n in range(4)] + ["the same"]
        bulk_module._count(report, [Parcel(shard, notes=notes)])
    assert len(report.notes) == bulk_module.MAX_NOTES
    assert report.notes.count("the same") == 1


def test_failures_are_in_order_and_any_name_is_written(tmp_path):
    report = BulkReport(9, tmp_path)
    report.failures = [
        Failure(7, "a\udcff\n.png", 'it is "damaged",\nreally'),
        Failure(2, "b", "c"),
    ]
    report.notes = ["a\udcff is turned"]
    (_, table), (_, rows), (_, told) = report_files(report)
    expected = [
        {"index": 2, "path": "b", "reason": "c"},
        {"index": 7, "path": "a\\udcff\n.png", "reason": 'it is "damaged",\nreally'},
    ]
    found = csv.DictReader(io.StringIO(table.decode(), newline=""))
    assert [row | {"index": int(row["index"])} for row in found] == expected
    assert parquet.read_table(io.BytesIO(rows)).to_pylist() == expected
    assert json.loads(told)["failures"] == 2


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run over three pictures, the last of which holds floats; called again, it goes on."""
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", 3)
    (pictures / "p002.png").unlink()
    cv2.imwrite(str(pictures / "p002.tiff"), np.full((24, 32), 0.5, np.float32))
    bundle = write_plain_bundle(tmp_path / "depth")
    return lambda: e2e.bulk(pictures, bundle, tmp_path / "out")


def test_what_is_known_of_pictures_is_told(run):
    report = run()
    assert report.workers == 1
    assert [note for note in report.notes if "p002.tiff holds floats" in note]


def test_results_without_a_number_are_counted_and_stay_so(run, monkeypatch):
    monkeypatch.setattr(writing, "known_pixels", lambda result: np.zeros(result.shape[:2], bool))
    assert (run().unknown_results, run().unknown_results) == (3, 3)
    assert not run().complete


def test_notes_and_reasons_are_safe_to_print():
    parcel = Parcel(0)
    parcel.note("a\x1b]0;owned\x07.png is odd")
    assert parcel.notes == ["a\ufffd]0;owned\ufffd.png is odd"]
