"""Counted operations against hand counts and against another counter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu import roofline, timing
from benchmarks.gpu.contenders import models
from e2e_deploy.export.graph.specialise import count_macs
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model


def meta(*shape):
    return torch.empty(shape, device="meta", dtype=torch.float16)


def test_a_convolution():
    conv = nn.Conv2d(3, 8, 3, padding=1, device="meta", dtype=torch.float16)
    (found,), out = roofline.count(conv, meta(2, 3, 5, 7))
    assert out.shape == (2, 8, 5, 7)
    assert found.flops == 2 * (2 * 5 * 7) * 8 * (3 * 9)
    assert found.bytes == 2 * (2 * 3 * 5 * 7 + 8 * 3 * 9 + 8 + 2 * 8 * 5 * 7)


def test_a_normalisation_reads_twice_and_writes_once():
    norm = nn.GroupNorm(2, 4, device="meta", dtype=torch.float16)
    (found,), _ = roofline.count(norm, meta(1, 4, 6, 6))
    assert found.flops == 0
    assert found.bytes == 2 * (3 * 4 * 36 + 2 * 4)


def test_attention_keeps_its_logits_on_the_chip():
    def attend(query):
        return F.scaled_dot_product_attention(query, meta(1, 3, 50, 16), value=meta(1, 3, 50, 24))

    (found,), out = roofline.count(attend, meta(1, 3, 70, 16))
    assert out.shape == (1, 3, 70, 24)
    assert found.flops == 2 * 3 * 70 * 50 * (16 + 24)
    assert found.bytes == 2 * 3 * (70 * 16 + 50 * 16 + 50 * 24 + 70 * 24)


def test_elementwise_work_counts_nothing():
    found, _ = roofline.count(lambda x: F.silu(x) + x, meta(1, 4, 6, 6))
    assert found == []


def test_the_longer_time_is_the_floor():
    roof = roofline.Roof(matrix_tflops=100.0, copy_gb_s=1000.0)
    product = roofline.Operation("mm", flops=2 * 10**11, bytes=10**6)  # 2 ms and 1 us
    norm = roofline.Operation("norm", flops=0, bytes=3 * 10**9)  # 3 ms
    work = roofline.work_of([product, norm], roof)
    assert work.tflop == pytest.approx(0.2)
    assert work.arithmetic_ms == pytest.approx(2.0)
    assert work.floor_ms == pytest.approx(5.0)


def test_a_whole_model_agrees_with_torchs_counter(small):
    model = load_model(open_checkpoint(small)).to("meta").half()
    found, _ = roofline.count(model, meta(1, 3, 64, 96))
    macs = count_macs(model, (64, 96))[""]
    assert sum(operation.flops for operation in found) == 2 * macs


@pytest.mark.slow
def test_sd2_has_the_floors_that_were_published(monkeypatch):
    """TFLOP and ms of the parts at 576x768, counted before by other code, for 790 TFLOP/s and 3.0 TB/s."""
    value = torch.empty(1, 576, 768, 3, dtype=torch.uint8, device="meta")
    roof, found = roofline.Roof(790.0, 3000.0), {}
    plan = models.own_size((576, 768), 64)
    for name, stage in models.shapes_only("plain", plan, torch.float16, small=False).items():
        operations, value = roofline.count(stage, value)
        found[name] = roofline.work_of(operations, roof)
    assert value.shape == (1, 576, 768)
    expected = {"encoder": (1.924, 3.32), "unet": (1.497, 2.36), "decoder": (4.283, 7.11)}
    for name, (tflop, floor_ms) in expected.items():
        assert found[name].tflop == pytest.approx(tflop, rel=0.01), name
        assert found[name].floor_ms == pytest.approx(floor_ms, rel=0.03), name


def test_rates_are_of_this_machine(monkeypatch):
    device = timing.Device("cpu")
    monkeypatch.setattr(device, "time_ms", lambda call, value: (call(value), 2.0)[1])
    assert roofline.matrix_tflops(device, torch.float32, 100) == pytest.approx(2e6 / 2e-3 / 1e12)
    assert roofline.copy_gb_s(device, 10**6) == pytest.approx(2e6 / 2e-3 / 1e9)
