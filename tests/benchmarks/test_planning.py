"""The plan for many GPUs: what follows from what, and the page that quotes it."""

import json
from pathlib import Path

import pytest

from benchmarks import planning, readme
from benchmarks.report import RESULTS

ROOT = Path(__file__).parents[2]
READING = {"cpu_s_an_image": 0.1, "mb_an_image": 2.0}


def rows_of(**rates):
    counted = json.loads((RESULTS / "training_memory.json").read_text())
    rates = {"link_gb_s": 100.0, "network_gb_s": 10.0} | rates
    rows = planning.plan(READING, counted, **rates)
    return {(row["precision"], row["gpus"]): row for row in rows}


def test_hours_follow_from_steps_and_rates():
    rows = rows_of()
    one = rows["bf16", 1]
    assert one["hours"] == pytest.approx(20_000 * 32 / 3.233 / 3600, abs=0.01)
    assert one["travel_s"] == 0
    assert one["read_mb_s"] == pytest.approx(3.233 * 2, abs=0.1)
    # 866 million float32 gradients; a ring sends each twice, but for the own share.
    assert rows["fp32", 8]["travel_s"] == pytest.approx(2 * 7 / 8 * 3.4637 / 100, abs=1e-3)
    assert rows["fp32", 16]["travel_s"] == pytest.approx(2 * 15 / 16 * 3.4637 / 10, abs=1e-3)
    assert rows["fp32", 16]["hours"] > rows_of(network_gb_s=100.0)["fp32", 16]["hours"]


def test_more_gpus_than_images_are_another_recipe():
    rows = rows_of()
    assert (rows["bf16", 32]["images_a_step"], rows["bf16", 32]["steps"]) == (32, 20_000)
    assert (rows["bf16", 64]["images_a_step"], rows["bf16", 64]["steps"]) == (64, 10_000)


def test_slices_are_what_training_adds_to_weights():
    counted = json.loads((RESULTS / "training_memory.json").read_text())
    memory = planning.memory_rows(counted)
    for row in counted["rows"]:
        if row["trained"] == ["unet"] and row["gradient_checkpointing"]:
            whole = sum(memory[row["precision"]].values())
            assert whole == pytest.approx(row["peak_gb"], rel=1e-6)
    one, many = rows_of()["fp32", 1], rows_of()["fp32", 64]
    assert one["sharded_gb"] == one["memory_gb"] == many["memory_gb"]
    assert many["sharded_gb"] < 0.3 * many["memory_gb"]


def test_reading_is_counted_in_time_of_a_core():
    found = planning.measure_reading(num_images=2)
    assert 0 < found["cpu_s_an_image"] < 10
    assert 0.1 < found["mb_an_image"] < 5


def test_the_page_is_what_the_result_says(tmp_path):
    page = (ROOT / "docs" / "training_at_scale.md").read_text()
    assert readme.fill(page, readme.PAGES["docs/training_at_scale.md"]) == page
    assert "not measured" in page
    assert planning.table(tmp_path) == "Not measured."
