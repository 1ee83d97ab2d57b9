"""Ways of training, by their names."""

import pytest
import torch

from benchmarks.gpu import training
from benchmarks.gpu.timing import Device


def test_a_way_is_its_name():
    assert training.Way.parse("bf16-4-compiled-tuned") == training.Way(
        "bf16", 4, compiled=True, tuned=True
    )
    with pytest.raises(ValueError, match="nobody knows fused"):
        training.Way.parse("bf16-1-fused")


def test_without_time_nothing_begins():
    ways = {name: training.Way.parse(name) for name in ("fp32-1", "bf16-1-compiled")}
    rows = training.run_ways(
        Device("cpu"), ways, training.SMALL, small=True, say=lambda text: None, until=0.0
    )
    assert [row["not_run"] for row in rows.values()] == [
        f"it may take {seconds} s, which are not left" for seconds in (12, 150)
    ]
    assert not torch.backends.cudnn.benchmark


def test_passes_give_the_losses_of_single_images():
    ways = {name: training.Way.parse(name) for name in ("fp32-1-checkpointed", "fp32-2")}
    settings = {"size_hw": (64, 64), "effective_batch": 2, "steps": 1}
    said: list[str] = []
    rows = training.run_ways(Device("cpu"), ways, settings, small=True, say=said.append)
    one, two = (row["losses"] for row in rows.values())
    assert two == pytest.approx(one, rel=1e-3)
    assert len(said) == 2
