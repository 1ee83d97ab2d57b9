import diffusers
import pytest
import torch

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.train.config.settings import DiffusionConfig
from e2e_deploy.train.objectives.diffusion import Diffusion, latent_loss

SD2 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def latents(seed=0, shape=(4, 4, 12, 16)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero_snr", [True, False])
@pytest.mark.parametrize("kind", ["v_prediction", "sample", "epsilon"])
def test_noisy_latents_and_targets_are_diffusers(kind, zero_snr):
    if kind == "epsilon" and zero_snr:
        return
    config = DiffusionConfig(zero_snr=zero_snr)
    diffusion = Diffusion(SD2 | {"prediction_type": kind}, config)
    x0, seeds = latents(), [11, 12, 13, 14]
    got = diffusion.noisy(x0, seeds)
    peer = diffusers.DDPMScheduler(**SD2, rescale_betas_zero_snr=zero_snr)
    alpha = peer.alphas_cumprod[got.timestep_B].view(-1, 1, 1, 1)
    noise = (got.xt_B4hw - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    torch.testing.assert_close(peer.add_noise(x0, noise, got.timestep_B), got.xt_B4hw)
    expected = {"sample": x0, "epsilon": noise}.get(kind)
    if expected is None:
        expected = peer.get_velocity(x0, noise, got.timestep_B)
    torch.testing.assert_close(got.target_B4hw, expected, rtol=1e-4, atol=1e-4)
    assert noise.flatten(1).std(dim=1).tolist() == pytest.approx([1] * 4, rel=1e-3)


def test_a_draw_depends_on_the_seed_of_its_image_alone():
    diffusion, x0 = Diffusion(SD2, DiffusionConfig()), latents()
    whole = diffusion.noisy(x0, [5, 6, 7, 8])
    alone = diffusion.noisy(x0[2:3], [7])
    assert torch.equal(whole.xt_B4hw[2:3], alone.xt_B4hw)
    assert whole.timestep_B[2] == alone.timestep_B[0]
    assert len(set(whole.timestep_B.tolist())) > 1


def test_timesteps_cover_the_schedule_evenly():
    diffusion = Diffusion(SD2, DiffusionConfig(noise="gaussian"))
    t = diffusion.noisy(torch.zeros(600, 1, 1, 1), range(600)).timestep_B.double()
    assert (t.min() < 30, t.max() > 970) == (True, True)
    assert t.mean().item() == pytest.approx(499.5, abs=60)


def neighbour_correlation(x):
    return ((x[..., 1:] * x[..., :-1]).mean() / x.square().mean()).item()


def test_annealed_noise_is_fine_where_little_is_added_and_coarse_where_all_is():
    diffusion = Diffusion(SD2 | {"prediction_type": "epsilon"}, DiffusionConfig(zero_snr=False))
    constant = Diffusion(
        SD2 | {"prediction_type": "epsilon"}, DiffusionConfig(zero_snr=False, annealed=False)
    )
    x0 = torch.zeros(60, 4, 32, 32)
    got, plain = diffusion.noisy(x0, range(60)), constant.noisy(x0, range(60))
    rows = zip(got.timestep_B.tolist(), got.target_B4hw, plain.target_B4hw, strict=True)
    by_t = sorted(rows, key=lambda row: row[0])
    early, late = by_t[:8], by_t[-8:]

    def coarseness(rows, which):
        return sum(neighbour_correlation(row[which]) for row in rows) / len(rows)

    assert coarseness(early, 1) < 0.1 < 0.3 < coarseness(late, 1)
    assert coarseness(early, 2) > 0.3


def test_a_perfect_network_is_sampled_exactly_as_by_diffusers():
    diffusion = Diffusion(SD2, DiffusionConfig(measured_steps=3))
    x0, noise = latents(1, (2, 4, 6, 8)), latents(2, (2, 4, 6, 8))
    scheduler = diffusers.DDIMScheduler(
        **SD2, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )

    asked = []

    def network(x, t):
        asked.append(int(t[0]))
        alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise_in_x = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise_in_x - (1 - alpha).sqrt() * x0

    torch.testing.assert_close(diffusion.sample(network, noise), x0, rtol=1e-4, atol=1e-4)
    assert asked == [999, 666, 332]


def test_a_latent_counts_where_all_of_its_pixels_are_known():
    output, target = latents(3, (2, 4, 2, 3)), latents(4, (2, 4, 2, 3))
    valid = torch.ones(2, 1, 16, 24, dtype=torch.bool)
    valid[0, 0, 7, 8] = False  # the second latent of the first row
    got = latent_loss(output, target, valid, 8)
    squares = (output.double() - target.double()).square()
    squares[0, :, 0, 1] = 0
    assert got.error_sum.item() == pytest.approx(squares.sum().item())
    assert got.num_valid.item() == 4 * (6 + 5)
    assert got.num_degenerate.item() == 0
    valid[1] = False
    output.requires_grad_()
    none = latent_loss(output, target, valid, 8)
    assert none.num_degenerate.item() == 1
    none.error_sum.backward()
    assert output.grad[1].abs().max() == 0 == output.grad[0, :, 0, 1].abs().max()


def test_schedules_that_cannot_be_used():
    with pytest.raises(UsageError, match="zero_snr = false"):
        Diffusion(SD2 | {"prediction_type": "epsilon"}, DiffusionConfig())
    with pytest.raises(CheckpointError, match="schedule"):
        Diffusion(SD2 | {"beta_schedule": "round"}, DiffusionConfig())
