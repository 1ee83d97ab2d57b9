import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.train.step.schedule import lr_factor

PAPER = {"warmup_steps": 100, "decay_steps": 20_000, "final_ratio": 0.01}


def test_paper_schedule_at_known_steps():
    assert lr_factor(0, **PAPER) == 0.01  # 1 / 100
    assert lr_factor(49, **PAPER) == 0.5
    assert lr_factor(99, **PAPER) == 1.0
    assert lr_factor(100, **PAPER) == 1.0
    # Half of the 19 900 decay steps: the square root of the final ratio.
    assert lr_factor(100 + 9950, **PAPER) == pytest.approx(0.1, rel=1e-12)
    assert lr_factor(20_000, **PAPER) == pytest.approx(0.01, rel=1e-12)
    assert lr_factor(50_000, **PAPER) == pytest.approx(0.01, rel=1e-12)


@given(st.integers(0, 30_000))
def test_decay_is_exponential(step):
    now, later = lr_factor(step, **PAPER), lr_factor(step + 1, **PAPER)
    assert 0 < now <= 1
    if 100 <= step < 20_000:
        assert later / now == pytest.approx(0.01 ** (1 / 19_900), rel=1e-9)


def test_fits_lambda_lr():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, **PAPER))
    for step in range(150):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-5 * lr_factor(step, **PAPER))
        optimizer.step()
        scheduler.step()


def test_no_warmup_starts_at_the_base_rate():
    assert lr_factor(0, warmup_steps=0, decay_steps=10, final_ratio=0.1) == 1.0
