"""Bytes counted on tensors without contents, and on real ones where the answer is known."""

import pytest
import torch

from benchmarks.speed import training_memory as script

MEGABYTE = 250_000  # float32 numbers
WEIGHTS, TRAINED = 865_922_244 + 83_653_863, 865_922_244


def test_live_memory_counts_what_is_alive_and_remembers_the_peak():
    with script.LiveMemory() as memory:
        kept = torch.zeros(MEGABYTE)
        assert memory.bytes == 1_000_000
        view = kept.view(500, 500)[3]
        assert memory.bytes == 1_000_000  # the same storage
        for _ in range(3):
            sums = kept + 1
        assert memory.bytes == 2_000_000
        assert memory.peak_bytes == 3_000_000  # the new one is made before the old one goes
        del sums, view
        assert memory.bytes == 1_000_000


def test_live_memory_sees_what_autograd_keeps():
    weight = torch.ones(MEGABYTE, requires_grad=True)
    with script.LiveMemory() as memory:
        result = (weight * 2).exp()  # exp keeps its result, the product keeps nothing
        assert memory.bytes == 1_000_000
        result.sum().backward()
        assert weight.grad is not None
        assert memory.bytes >= 2_000_000


def test_full_size_parts_add_up_and_checkpointing_saves_activations():
    rows = {
        checkpointing: script.measure(
            (96, 128), "bf16", checkpointing=checkpointing, train=("unet",)
        )
        for checkpointing in (True, False)
    }
    for row in rows.values():
        parts = row["parts_gb"]
        assert sum(parts.values()) == pytest.approx(row["peak_gb"])
        assert parts["weights"] == pytest.approx(4 * WEIGHTS / 1e9, rel=1e-5)  # and a prompt
        assert parts["optimizer"] == 2 * parts["gradients"] == 2 * 4 * TRAINED / 1e9
    assert rows[True]["parts_gb"]["activations"] < rows[False]["parts_gb"]["activations"]
