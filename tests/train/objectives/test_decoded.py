import math

import pytest
import torch

from e2e_deploy.train.config.settings import LossConfig, OutputsConfig, TermsConfig
from e2e_deploy.train.objectives.decoded import DecodedLoss, image_of
from e2e_deploy.train.objectives.losses import depth_loss, normals_loss
from e2e_deploy.train.objectives.terms import (
    absolute_sum,
    aligned,
    gradient_sum,
    invariant_sum,
    open_angle_sum,
    squared_sum,
)


def truth(seed=0, batch=2, size=(8, 10), **changes):
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn((batch, 3, *size), generator=generator)
    values = {
        "depth_m": 1 + 9 * torch.rand((batch, 1, *size), generator=generator),
        "normals": normals / normals.norm(dim=1, keepdim=True),
        "picture": torch.rand((batch, 3, *size), generator=generator) * 2 - 1,
        "valid": torch.rand((batch, 1, *size), generator=generator) > 0.3,
    }
    return values | changes


def prediction(channels, seed=1, batch=2, size=(8, 10)):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand((batch, channels, *size), generator=generator) * 2 - 1).requires_grad_()


def test_depth_and_disparity_go_from_the_nearest_to_the_farthest():
    given = truth(depth_m=torch.tensor([1.0, 2.0, 4.0, 5.0]).reshape(1, 1, 1, 4))
    assert image_of("depth", given).flatten().tolist() == pytest.approx([-1, -0.5, 0.5, 1])
    disparity = image_of("disparity", given).flatten().tolist()
    assert disparity == pytest.approx([1, -0.25, (2 * (1 / 4 - 0.2) / 0.8 - 1), -1])
    flat = truth(depth_m=torch.full((1, 1, 2, 2), 3.0))
    assert image_of("depth", flat).abs().max() == 0


@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_the_published_losses_are_what_is_taken_without_terms(kind):
    given, x = truth(), prediction(1 if kind == "depth" else 3)
    loss = DecodedLoss([kind], LossConfig())
    got = loss(x, given)
    plain = {
        "depth": lambda: depth_loss(x, given["depth_m"], given["valid"]),
        "normals": lambda: normals_loss(x, given["normals"], given["valid"]),
    }[kind]()
    assert (loss.names, got.parts) == ((), ())
    for name in ("error_sum", "direction_sum", "num_valid", "num_flat", "num_negative"):
        assert torch.equal(getattr(got, name), getattr(plain, name))


def test_genpercepts_set_is_a_weighted_sum():
    given, x = truth(), prediction(1)
    terms = TermsConfig(mse=1.0, ssi=0.5, gradient=2.0)
    loss = DecodedLoss(["depth"], LossConfig(terms=terms))
    got, y, valid = loss(x, given), image_of("depth", given), given["valid"]
    each = [squared_sum(x, y, valid), invariant_sum(x, y, valid), gradient_sum(x, y, valid)]
    assert loss.names == ("mse", "ssi", "gradient")
    assert torch.stack(got.parts).tolist() == pytest.approx([v.item() for v in each])
    expected = each[0] + 0.5 * each[1] + 2 * each[2]
    assert got.error_sum.item() == pytest.approx(expected.item())
    assert got.num_valid == valid.sum()
    got.error_sum.backward()
    (other,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(x.grad, other)


def test_disparity_has_genpercepts_set_without_a_config():
    terms = TermsConfig(mse=1.0, ssi=0.5, gradient=2.0)
    given, x = truth(), prediction(1)
    got = DecodedLoss(["disparity"], LossConfig())(x, given)
    assert torch.equal(
        got.error_sum, DecodedLoss(["disparity"], LossConfig(terms=terms))(x, given).error_sum
    )


def test_the_gradient_may_be_of_the_aligned_prediction_on_several_scales():
    given, x = truth(size=(16, 16)), prediction(1, size=(16, 16))
    terms = TermsConfig(gradient=3.0, gradient_scales=4, gradient_of="aligned")
    got = DecodedLoss(["depth"], LossConfig(terms=terms))(x, given)
    y, valid = image_of("depth", given), given["valid"]
    expected = 3 * gradient_sum(aligned(x, y, valid), y, valid, scales=4)
    assert got.error_sum.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("kind", "channels"), [("mask", 3), ("matte", 1)])
def test_pictures_are_compared_as_they_are(kind, channels):
    given = truth(picture=prediction(channels, seed=4).detach())
    x = prediction(channels)
    got = DecodedLoss([kind], LossConfig())(x, given)
    error = (x - given["picture"]).square().mean(dim=1, keepdim=True)[given["valid"]]
    assert got.loss.item() == pytest.approx(error.mean().item(), rel=1e-6)
    terms = TermsConfig(l1=1.0, gradient=1.0)
    got = DecodedLoss([kind], LossConfig(terms=terms))(x, given)
    expected = absolute_sum(x, given["picture"], given["valid"])
    expected = expected + gradient_sum(x, given["picture"], given["valid"])
    assert got.error_sum.item() == pytest.approx(expected.item())


def test_depth_in_metres_and_in_shares_of_it_add_up():
    given, x = truth(), prediction(1)
    x.data[1] = -x.data[1] - 0.1 * given["depth_m"][1]
    metres, shares = (
        depth_loss(x, given["depth_m"], given["valid"], relative=relative)
        for relative in (False, True)
    )
    loss = DecodedLoss(["depth"], LossConfig(terms=TermsConfig(metres=0.5, relative=2.0)))
    got = loss(x, given)
    assert loss.names == ("metres", "relative")
    assert got.loss.item() == pytest.approx(0.5 * metres.loss.item() + 2 * shares.loss.item())
    direction = metres.direction_sum + shares.direction_sum
    assert got.direction_sum.item() == pytest.approx(direction.item())
    assert direction > 0
    alone = DecodedLoss(["depth"], LossConfig(terms=TermsConfig(relative=2.0)))(x, given)
    assert alone.loss.item() == pytest.approx(2 * shares.loss.item())
    assert torch.equal(alone.direction_sum, shares.direction_sum)


def test_depth_and_normals_of_one_pass_are_weighed():
    given, x = truth(), prediction(4)
    loss = DecodedLoss(["depth", "normals"], LossConfig())
    got = loss(x, given)
    depth = depth_loss(x[:, :1], given["depth_m"], given["valid"])
    normals = normals_loss(x[:, 1:], given["normals"], given["valid"])
    assert loss.names == ("depth_metres", "normals_angle")
    assert got.loss.item() == pytest.approx(0.5 * depth.loss.item() + normals.loss.item())
    assert torch.stack(got.parts).tolist() == pytest.approx(
        [depth.error_sum.item(), normals.error_sum.item()]
    )
    assert got.num_negative == depth.num_negative
    assert torch.equal(got.direction_sum, depth.direction_sum)
    other = DecodedLoss(
        ["depth", "normals"], LossConfig(outputs=OutputsConfig(depth=2.0, normals=0.25))
    )(x, given)
    expected = 2 * depth.loss.item() + 0.25 * normals.loss.item()
    assert other.loss.item() == pytest.approx(expected)


def test_an_image_whose_depth_teaches_nothing_adds_no_normals_either():
    given, x = truth(), prediction(4)
    given["depth_m"][1] = 2.0
    got = DecodedLoss(["depth", "normals"], LossConfig())(x, given)
    assert (got.num_degenerate.item(), got.num_valid) == (1, given["valid"][0].sum())
    got.error_sum.backward()
    assert x.grad[1].abs().max() == 0 < x.grad[0].abs().max()


def test_inverted_images_are_counted_whatever_the_terms():
    given = truth()
    y = image_of("depth", given).float()
    x = torch.stack([0.9 * y[0], -0.9 * y[1]])
    got = DecodedLoss(["depth"], LossConfig(terms=TermsConfig(mse=1.0, l1=1.0)))(x, given)
    assert got.num_negative.item() == 1


def test_the_open_angle_has_a_count_of_its_own():
    given = truth()
    x = prediction(3).detach()
    x[0] = given["normals"][0]
    got = DecodedLoss(["normals"], LossConfig(terms=TermsConfig(open_angle=1.0)))(x, given)
    total, counts = open_angle_sum(x, given["normals"], given["valid"])
    assert got.num_valid == counts.sum() == given["valid"][1].sum()
    assert got.loss.item() == pytest.approx((total / counts.sum()).item())


def test_nothing_valid_is_a_connected_zero_and_nan_is_not_hidden():
    terms = LossConfig(terms=TermsConfig(mse=1.0, ssi=0.5, gradient=2.0))
    given, x = truth(), prediction(1)
    empty = truth(valid=torch.zeros(2, 1, 8, 10, dtype=torch.bool))
    got = DecodedLoss(["depth"], terms)(x, empty)
    assert (got.loss.item(), got.num_degenerate.item()) == (0, 2)
    got.error_sum.backward()
    assert x.grad.abs().max() == 0
    given["valid"][0, 0, 0, 0] = True
    broken = x.detach().clone()
    broken[0, 0, 0, 0] = math.nan
    assert math.isnan(DecodedLoss(["depth"], terms)(broken, given).loss.item())
