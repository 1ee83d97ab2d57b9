import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy.train.objectives.terms import (
    absolute_sum,
    aligned,
    gradient_sum,
    invariant_sum,
    open_angle_sum,
    squared_sum,
)


def case(seed=0, batch=2, channels=1, size=(8, 12)):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.uniform(-1, 1, (batch, channels, *size)))
    y = torch.tensor(rng.uniform(-1, 1, (batch, channels, *size)))
    return x, y, torch.tensor(rng.random((batch, 1, *size)) > 0.3)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


ALL = torch.ones(1, 1, 1, 4, dtype=torch.bool)


def test_squared_and_absolute_errors_by_hand():
    x, y = row(0.0, 0.5, -1.0, 1.0), row(0.0, 0.0, 1.0, 0.5)
    assert squared_sum(x, y, ALL).item() == pytest.approx(0 + 0.25 + 4 + 0.25)
    assert absolute_sum(x, y, ALL).item() == pytest.approx(0 + 0.5 + 2 + 0.5)
    half = ALL.clone()
    half[..., 2:] = False
    assert absolute_sum(x, y, half).item() == pytest.approx(0.5)


def test_channels_of_a_pixel_are_averaged():
    x, y, valid = case(channels=3)
    errors = (x - y).square().mean(dim=1, keepdim=True)
    assert squared_sum(x, y, valid).item() == pytest.approx(errors[valid].sum().item())


def plain_invariant(x, y, valid):
    """As GenPercept has it, image by image, in NumPy: least squares, or medians where that scale is not positive."""
    total = 0.0
    for p, t, m in zip(x.numpy() + 2, y.numpy() + 2, valid.numpy(), strict=True):
        p, t = p[m], t[m]
        scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)[0]
        fitted = scale * p + shift
        if scale <= 0:
            middle = (len(p) - 1) // 2  # torch's median is the lower of two
            fitted = p * np.sort(t)[middle] / np.sort(p)[middle]
        total += np.abs(fitted - t).sum()
    return total


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_invariant_term_is_the_published_one_and_both_branches_occur(seed):
    x, y, valid = case(seed)
    valid[..., :2] = True
    x[0], x[1] = (x[0] + 2 * y[0]) / 3, (x[1] - 2 * y[1]) / 3
    got = invariant_sum(x, y, valid).item()
    assert got == pytest.approx(plain_invariant(x, y, valid), rel=1e-9)
    centred = [(p[m] - p[m].mean()) @ t[m] for p, t, m in zip(x, y, valid, strict=True)]
    assert centred[0] > 0 > centred[1]


def test_an_upright_affine_map_costs_nothing_and_an_inverted_one_does():
    _, y, valid = case()
    assert invariant_sum(0.3 * y + 0.2, y, valid).item() < 1e-9
    assert invariant_sum(-y, y, valid).item() > 10


def test_a_flat_prediction_takes_the_median_of_the_truth():
    x, y = row(0.5, 0.5, 0.5, 0.5), row(-1.0, -0.5, 0.5, 1.0)
    got = aligned(x, y, ALL)
    # The lower median, -0.5; [1, 3] keeps ratios positive.
    assert got.flatten().tolist() == pytest.approx([-0.5] * 4)


@pytest.mark.parametrize("term", [squared_sum, absolute_sum, invariant_sum, gradient_sum])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients(term, sign):
    x, y, valid = case(size=(3, 5))
    x = (0.5 * x + 0.4 * sign * y).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: term(p, y, valid), (x,))
    term(x, y, valid).backward()
    assert x.grad[~valid].abs().max() == 0


def test_invalid_pixels_may_hold_anything():
    x, y, valid = case(channels=1)
    terms = (squared_sum, absolute_sum, invariant_sum, gradient_sum)
    expected = [term(x, y, valid).item() for term in terms]
    x, y = x.clone(), y.clone()
    x[~valid], y[~valid] = math.nan, math.inf
    for term, value in zip(terms, expected, strict=True):
        p = x.clone().requires_grad_()
        got = term(p, y, valid)
        assert got.item() == pytest.approx(value)
        got.backward()
        assert torch.isfinite(p.grad).all()


def test_a_nan_prediction_is_not_hidden():
    x, y, valid = case()
    valid[0, 0, 1, 1], x[0, 0, 1, 1] = True, math.nan
    for term in (squared_sum, absolute_sum, invariant_sum, gradient_sum):
        assert math.isnan(term(x, y, valid).item())


@pytest.mark.parametrize("term", [squared_sum, absolute_sum, invariant_sum, gradient_sum])
def test_nothing_valid_is_a_connected_zero(term):
    x, y, valid = case()
    x.requires_grad_()
    got = term(x, y, torch.zeros_like(valid))
    assert got.item() == 0
    got.backward()
    assert x.grad.abs().max() == 0


def plain_gradient(x, y, valid, scales):
    """Pixel by pixel."""
    error, total = (x - y).numpy(), 0.0
    for scale in range(scales):
        step = 2**scale
        for b in range(len(error)):
            e, m = error[b, 0, ::step, ::step], valid[b, 0, ::step, ::step].numpy()
            for i in range(e.shape[0]):
                for j in range(e.shape[1]):
                    if j and m[i, j] and m[i, j - 1]:
                        total += step**2 * abs(e[i, j] - e[i, j - 1])
                    if i and m[i, j] and m[i - 1, j]:
                        total += step**2 * abs(e[i, j] - e[i - 1, j])
    return total


@pytest.mark.parametrize("scales", [1, 4])
def test_the_gradient_term_counts_neighbours_of_every_scale(scales):
    x, y, valid = case(size=(16, 24))
    got = gradient_sum(x, y, valid, scales=scales).item()
    assert got == pytest.approx(plain_gradient(x, y, valid, scales))


def test_the_gradient_term_by_hand_and_a_constant_error_costs_nothing():
    x, y = row(0.0, 0.5, 0.5, -0.5), row(0.0, 0.0, 0.0, 0.0)
    assert gradient_sum(x, y, ALL).item() == pytest.approx(0.5 + 0 + 1)
    # Every second: 0, 0.5, and each stands for four.
    assert gradient_sum(x, y, ALL, scales=2).item() == pytest.approx(1.5 + 4 * 0.5)
    x, y, valid = case()
    assert gradient_sum(y + 0.3, y, valid).item() < 1e-12


def test_fully_valid_images_give_midas_sum_of_a_mean_for_every_scale():
    x, y, _ = case(size=(16, 24))
    valid = torch.ones_like(x, dtype=torch.bool)
    means = [
        plain_gradient(x[..., ::s, ::s], y[..., ::s, ::s], valid[..., ::s, ::s], 1)
        / valid[..., ::s, ::s].sum().item()
        for s in (1, 2, 4, 8)
    ]
    got = gradient_sum(x, y, valid, scales=4).item() / valid.sum().item()
    assert got == pytest.approx(sum(means))


def test_the_open_angle_leaves_exact_pixels_out():
    angles = [math.radians(a) for a in (0.0, 0.005, 30.0, 90.0, 180.0)]
    x = torch.tensor([[math.sin(a), 0.0, math.cos(a)] for a in angles], dtype=torch.float64)
    x = (3 * x).T.reshape(1, 3, 1, 5).requires_grad_()
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1).expand_as(x)
    total, counts = open_angle_sum(x, z, torch.ones(1, 1, 1, 5, dtype=torch.bool))
    assert counts.flatten().tolist() == [False, False, True, True, False]
    assert total.item() == pytest.approx(math.pi / 6 + math.pi / 2)
    total.backward()
    assert torch.isfinite(x.grad).all()
    assert torch.autograd.gradcheck(
        lambda p: open_angle_sum(p, z[..., 2:4], torch.ones(1, 1, 1, 2, dtype=torch.bool))[0],
        (x.detach()[..., 2:4].clone().requires_grad_(),),
    )
