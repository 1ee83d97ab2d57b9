import pytest
import torch

from e2e_deploy.train.objectives.noise import latent_noise

SHAPE = (2, 4, 60, 80)


def draw(kind, seed=0, **options):
    return latent_noise(kind, SHAPE, generator=torch.Generator().manual_seed(seed), **options)


def test_zeros():
    assert draw("zeros").abs().max() == 0


@pytest.mark.parametrize("kind", ["gaussian", "pyramid"])
def test_noise_is_seeded_and_has_unit_deviation(kind):
    noise = draw(kind)
    assert noise.shape == SHAPE
    assert torch.equal(noise, draw(kind))
    assert not torch.equal(noise, draw(kind, seed=1))
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert draw(kind, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    draw("pyramid")
    assert torch.equal(state, torch.get_rng_state())


def test_pyramid_noise_is_coarse_and_gaussian_noise_is_not():
    def neighbour_correlation(noise):
        return (noise[..., 1:] * noise[..., :-1]).mean().item() / noise.square().mean().item()

    assert abs(neighbour_correlation(draw("gaussian"))) < 0.03
    assert neighbour_correlation(draw("pyramid")) > 0.2


def test_unknown_noise_is_an_error():
    with pytest.raises(ValueError, match="'pink'"):
        draw("pink")
