import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy.metrics import depth_metrics
from e2e_deploy.train.objectives.losses import depth_loss, normals_loss


def plain_depth_loss(pred, depth, valid):
    """The definition, image by image, in NumPy float64."""
    errors = []
    for p, d, m in zip(pred, depth, valid, strict=True):
        design = np.stack([p[m], np.ones(m.sum())], axis=1)
        scale, shift = np.linalg.lstsq(design, d[m], rcond=None)[0]
        errors.append(np.abs(scale * p[m] + shift - d[m]))
    return np.concatenate(errors).mean()


def depth_case(seed=0, batch=2, size=(7, 9), dtype=torch.float64):
    rng = np.random.default_rng(seed)
    pred = torch.tensor(rng.uniform(-1, 1, (batch, 1, *size)), dtype=dtype)
    depth = torch.tensor(rng.uniform(1, 60, (batch, 1, *size)), dtype=dtype)
    valid = torch.tensor(rng.random((batch, 1, *size)) > 0.3)
    return pred, depth, valid


def unit(x):
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)


def normals_case(seed=0, batch=2, size=(5, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn((batch, 3, *size), generator=generator, dtype=dtype)
    target = unit(torch.randn((batch, 3, *size), generator=generator, dtype=dtype))
    valid = torch.rand((batch, 1, *size), generator=generator) > 0.3
    return pred, target, valid


def test_depth_equals_the_plain_definition():
    pred, depth, valid = depth_case()
    got = depth_loss(pred, depth, valid)
    expected = plain_depth_loss(pred.numpy(), depth.numpy(), valid.numpy())
    assert got.loss.item() == pytest.approx(expected, abs=1e-12)
    assert got.num_valid.item() == valid.sum()
    assert got.num_degenerate.item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_relative_depth_is_the_abs_rel_that_evaluation_measures(seed):
    pred, depth, valid = depth_case(seed, batch=1)
    pred = 0.02 * pred + depth / 30  # fits to positive depths, which evaluation's clip leaves alone
    depth[~valid] = 0  # as a data set marks what it does not know
    got = depth_loss(pred, depth, valid, relative=True)
    peer = depth_metrics(pred[0, 0].numpy(), depth[0, 0].numpy(), valid[0, 0].numpy())
    assert peer.abs_rel > 0.01
    assert got.loss.item() == pytest.approx(peer.abs_rel, abs=1e-12)


def test_relative_depth_has_a_gradient_and_a_direction_in_shares():
    pred, depth, valid = depth_case(batch=1, size=(3, 4))
    depth[~valid] = 0
    inverted = (pred - depth / 20).requires_grad_()
    for part in ("error_sum", "direction_sum"):
        assert torch.autograd.gradcheck(
            lambda p, part=part: getattr(depth_loss(p, depth, valid, relative=True), part),
            (inverted,),
        )
    metres = depth_loss(inverted, depth, valid).direction_sum / valid.sum()
    got = depth_loss(inverted, depth, valid, relative=True)
    assert got.direction_sum.item() == pytest.approx((metres / depth[valid]).sum().item())


def test_depth_by_hand():
    # Two pairs of equal predictions: each pair is mapped to its own mean, 2 m and 6 m.
    pred = torch.tensor([-0.5, -0.5, 0.5, 0.5]).reshape(1, 1, 2, 2)
    depth = torch.tensor([1.0, 3.0, 4.0, 8.0]).reshape(1, 1, 2, 2)
    got = depth_loss(pred, depth, torch.ones(1, 1, 2, 2, dtype=torch.bool))
    assert got.loss.item() == pytest.approx((1 + 1 + 2 + 2) / 4)


def test_depth_takes_one_mean_over_pixels_not_over_images():
    pred = torch.tensor([-0.5, -0.5, 0.5, 0.5]).reshape(1, 1, 1, 4).repeat(2, 1, 1, 1)
    depth = torch.tensor([[1.0, 3.0, 4.0, 8.0], [1.0, 1.0, 2.0, 2.0]]).reshape(2, 1, 1, 4)
    valid = torch.tensor([[True] * 4, [False, True, True, False]]).reshape(2, 1, 1, 4)
    got = depth_loss(pred, depth, valid)
    assert got.loss.item() == pytest.approx(6 / 6)
    assert got.num_valid.item() == 6


def test_a_negative_scale_is_allowed_and_counted():
    _, depth, valid = depth_case()
    depth[1, 0, 0, 0], valid[1, 0, 0, 0] = 30, True
    right, inverted = depth / 60, 1 - depth / 60
    got = depth_loss(inverted, depth, valid)
    assert got.loss.item() < 1e-12
    assert got.num_negative.item() == 2
    # Of an image that fits exactly the whole deviation has the wrong sign.
    deviation = sum(
        m.sum() * d[m].std(correction=0) for d, m in zip(depth, valid, strict=True)
    ).item()
    assert got.direction_sum.item() == pytest.approx(deviation)
    got = depth_loss(torch.stack([right[0], inverted[1]]), depth, valid)
    assert got.num_negative.item() == 1
    got = depth_loss(right, depth, valid)
    assert (got.direction_sum.item(), got.num_negative.item()) == (0, 0)


def test_the_direction_turns_what_is_inverted_and_leaves_the_rest():
    pred, depth, valid = depth_case(batch=1, size=(3, 4))
    for sign in (1, -1):
        # An undecided prediction that leans to one side.
        x = (pred + sign * 0.01 * depth).requires_grad_()
        covariance = (x - x[valid].mean())[valid] @ (depth - depth[valid].mean())[valid]
        (to_right,) = torch.autograd.grad(covariance, x)
        got = depth_loss(x, depth, valid)
        assert bool(got.num_negative) == (covariance < 0)
        got.direction_sum.backward()
        descent = -(x.grad * to_right).sum().item()
        assert descent > 0 if covariance < 0 else descent == 0
    inverted = (pred - depth / 20).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: depth_loss(p, depth, valid).direction_sum, (inverted,)
    )


def test_a_flat_prediction_is_an_error_without_gradient():
    pred, depth, valid = depth_case()
    pred[1] = 0.7
    pred.requires_grad_()
    got = depth_loss(pred, depth, valid)
    expected = plain_depth_loss(pred.detach().numpy(), depth.numpy(), valid.numpy())
    assert got.loss.item() == pytest.approx(expected, abs=1e-12)
    assert (got.num_flat.item(), got.num_degenerate.item()) == (1, 0)
    (got.error_sum + got.direction_sum).backward()
    assert pred.grad[1].abs().max() == 0
    assert pred.grad[0].abs().max() > 0
    assert torch.isfinite(pred.grad).all()


def test_depth_gradient_flows_through_the_fit():
    pred, depth, valid = depth_case(size=(3, 4))
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: depth_loss(p, depth, valid).loss, (pred,))
    # A detached fit would leave a gradient along the prediction itself; the loss has none there.
    depth_loss(pred, depth, valid).loss.backward()
    assert (pred.grad * pred).sum().item() == pytest.approx(0, abs=1e-9)
    assert pred.grad.sum().item() == pytest.approx(0, abs=1e-9)
    assert pred.grad.abs().max() > 1e-3


def test_depth_gradient_equals_finite_differences_of_the_plain_definition():
    pred, depth, valid = depth_case(size=(3, 4))
    pred.requires_grad_()
    depth_loss(pred, depth, valid).loss.backward()
    values = pred.detach().numpy()
    for index in [(0, 0, 1, 2), (1, 0, 2, 3), (1, 0, 0, 0)]:
        high, low = values.copy(), values.copy()
        high[index] += 1e-6
        low[index] -= 1e-6
        slope = (
            plain_depth_loss(high, depth.numpy(), valid.numpy())
            - plain_depth_loss(low, depth.numpy(), valid.numpy())
        ) / 2e-6
        assert pred.grad[index].item() == pytest.approx(slope, abs=1e-6)


def test_a_nearly_constant_prediction_keeps_its_precision_in_fp32():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((1, 1, 480, 640), generator=generator)
    pred = (0.7 + 1e-4 * noise).float()
    depth = 4 + noise + 0.2 * torch.randn(noise.shape, generator=generator)
    valid = torch.ones_like(noise, dtype=torch.bool)
    got = depth_loss(pred, depth, valid).loss
    expected = plain_depth_loss(pred.double().numpy(), depth.double().numpy(), valid.numpy())
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_and_autocast_do_not_reach_the_fit():
    pred, depth, valid = depth_case(size=(32, 32), dtype=torch.float32)
    expected = depth_loss(pred.bfloat16().float(), depth, valid).loss
    with torch.autocast("cpu", torch.bfloat16):
        got = depth_loss(pred.bfloat16(), depth, valid).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.02, 50).flatmap(lambda s: st.sampled_from([s, -s])),
    shift=st.floats(-10, 10),
    seed=st.integers(0, 10_000),
)
def test_depth_ignores_an_affine_change_of_the_prediction(scale, shift, seed):
    pred, depth, valid = depth_case(seed)
    valid[..., :2] = True
    expected = depth_loss(pred, depth, valid).loss.item()
    got = depth_loss(scale * pred + shift, depth, valid).loss.item()
    assert got == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 10), seed=st.integers(0, 10_000))
def test_depth_loss_is_in_metres(factor, seed):
    pred, depth, valid = depth_case(seed)
    valid[..., :2] = True
    expected = factor * depth_loss(pred, depth, valid).loss.item()
    assert depth_loss(pred, factor * depth, valid).loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["nothing valid", "one pixel", "flat target"])
def test_a_degenerate_image_contributes_zero_and_is_counted(kind):
    pred, depth, valid = depth_case(batch=2, dtype=torch.float32)
    alone = depth_loss(pred[:1], depth[:1], valid[:1])
    if kind == "nothing valid":
        valid[1] = False
        depth[1] = math.nan
    elif kind == "flat target":
        depth[1] = 3.3
    else:
        valid[1] = False
        valid[1, 0, 2, 2] = True
    pred.requires_grad_()
    got = depth_loss(pred, depth, valid)
    assert got.loss.item() == pytest.approx(alone.loss.item(), rel=1e-6)
    assert got.num_valid == alone.num_valid
    assert got.num_degenerate.item() == 1
    got.loss.backward()
    assert pred.grad[1].abs().max() == 0
    assert torch.isfinite(pred.grad).all()


def test_a_batch_of_degenerate_images_is_a_connected_zero():
    pred, depth, valid = depth_case(dtype=torch.float32)
    weight = torch.ones((), requires_grad=True)
    got = depth_loss(weight * pred, depth, torch.zeros_like(valid))
    assert (got.loss.item(), got.num_valid.item(), got.num_degenerate.item()) == (0, 0, 2)
    got.loss.backward()
    assert weight.grad.item() == 0


def test_invalid_pixels_may_hold_anything():
    pred, depth, valid = depth_case(dtype=torch.float32)
    expected = depth_loss(pred, depth, valid).loss
    pred, depth = pred.clone(), depth.clone()
    depth[~valid] = math.inf
    pred[~valid] = math.nan
    pred.requires_grad_()
    got = depth_loss(pred, depth, valid).loss
    assert got.item() == expected.item()
    got.backward()
    assert torch.isfinite(pred.grad).all()


def test_a_nan_prediction_is_not_hidden():
    pred, depth, valid = depth_case()
    valid[0, 0, 0, 0] = True
    pred[0, 0, 0, 0] = math.nan
    assert torch.isnan(depth_loss(pred, depth, valid).loss)
    pred, target, mask = normals_case()
    mask[0, 0, 0, 0] = True
    pred[0, 0, 0, 0] = math.nan
    assert torch.isnan(normals_loss(pred, target, mask).loss)


def test_normals_equal_the_arc_cosine():
    pred, target, valid = normals_case()
    cosine = torch.nn.functional.cosine_similarity(pred, target, dim=1)
    expected = torch.arccos(cosine)[valid[:, 0]].mean()
    got = normals_loss(pred, target, valid)
    assert got.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert got.num_valid.item() == valid.sum()


def test_normals_by_hand():
    pred = torch.tensor([[0.0, 0.0, 2.0], [0.0, 5.0, 5.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[0.0, 0.0, 1.0]] * 4)
    got = normals_loss(
        pred.T.reshape(1, 3, 2, 2), target.T.reshape(1, 3, 2, 2), torch.ones(1, 1, 2, 2).bool()
    )
    assert got.loss.item() == pytest.approx((0 + 45 + 180 + 90) / 4 * math.pi / 180, rel=1e-6)


def test_normals_gradient():
    pred, target, valid = normals_case(size=(2, 3))
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: normals_loss(p, target, valid).loss, (pred,))


@pytest.mark.parametrize("length", [1e3, 1.0, 1e-4, 0.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_normals_gradient_is_finite_at_the_ends(length, sign):
    _, target, valid = normals_case(dtype=torch.float32)
    pred = (sign * length * target).requires_grad_()
    got = normals_loss(pred, target, valid).loss
    angle = {0.0: 90.0}.get(length, 0.0 if sign > 0 else 180.0)
    assert math.degrees(got.item()) == pytest.approx(angle, abs=0.05)
    got.backward()
    assert torch.isfinite(pred.grad).all()


def test_normals_need_a_target():
    pred, target, valid = normals_case(dtype=torch.float32)
    target[1] = 0
    pred.requires_grad_()
    got = normals_loss(pred, target, valid)
    assert got.num_valid.item() == valid[0].sum()
    assert got.num_degenerate.item() == 1
    target[0] = 0
    empty = normals_loss(pred, target, valid)
    assert (empty.loss.item(), empty.num_degenerate.item()) == (0, 2)
    empty.loss.backward()
    assert pred.grad.abs().max() == 0


def test_wrong_shapes_are_named():
    pred, depth, valid = depth_case()
    with pytest.raises(ValueError, match=r"\(2, 7, 9\)"):
        depth_loss(pred, depth[:, 0], valid)
    vectors, target, mask = normals_case()
    with pytest.raises(ValueError, match=r"\(2, 5, 6\)"):
        normals_loss(vectors, target, mask[:, 0])
