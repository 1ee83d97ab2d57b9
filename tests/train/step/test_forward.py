import pytest
import torch
from torch.utils.checkpoint import checkpoint

from e2e_deploy.train.objectives.losses import depth_loss
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step.forward import TrainingForward, clamp_inward
from e2e_deploy.train.step.memory import need_of
from tests.train.small_runs import small_config


def build(root, train=("unet",), task="depth", checkpointing=False):
    model = load_start(small_config(root, task=task)).model
    return TrainingForward(model, train=train, gradient_checkpointing=checkpointing)


@pytest.fixture
def rgb():
    return torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def loss_of(forward, rgb):
    depth = torch.linspace(1, 5, rgb[:, :1].numel()).reshape(rgb[:, :1].shape)
    return depth_loss(forward(rgb, None), depth, torch.ones_like(depth, dtype=torch.bool)).loss


def gradients(forward):
    return {name: p.grad for name, p in forward.model.named_parameters() if p.grad is not None}


def test_gradient_reaches_the_unet_through_the_frozen_decoder(tmp_path, rgb):
    forward = build(tmp_path)
    loss_of(forward, rgb).backward()
    found = gradients(forward)
    assert found
    assert all(name.startswith("unet.") for name in found)
    assert found.keys() == dict(forward.named_trained()).keys()
    assert found["unet.conv_in.weight"].abs().sum() > 0
    # Without the decoder's own gradient path nothing would arrive: finite differences agree.
    weight = forward.model.unet.conv_out.weight
    with torch.no_grad():
        weight[0, 0, 1, 1] += 1e-2
        above = loss_of(forward, rgb)
        weight[0, 0, 1, 1] -= 2e-2
        below = loss_of(forward, rgb)
    slope = (above - below) / 2e-2
    assert found["unet.conv_out.weight"][0, 0, 1, 1].item() == pytest.approx(slope.item(), rel=0.05)


def test_vae_is_trained_when_asked(tmp_path, rgb):
    forward = build(tmp_path, train=("unet", "vae"))
    loss_of(forward, rgb).backward()
    found = gradients(forward)
    for name in ("unet.conv_in", "vae.encoder.conv_in", "vae.decoder.conv_out", "vae.quant_conv"):
        assert found[f"{name}.weight"].abs().sum() > 0


@pytest.mark.parametrize("train", [("unet",), ("unet", "vae")])
def test_gradient_checkpointing_changes_no_gradient(tmp_path, rgb, train, monkeypatch):
    plain = build(tmp_path, train=train)
    loss_of(plain, rgb).backward()
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return checkpoint(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    saving = build(tmp_path, train=train, checkpointing=True)
    loss_of(saving, rgb).backward()
    assert len(calls) > 5
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient)


def test_same_reading_as_the_deployed_model(tmp_path, rgb):
    for task in ("depth", "normals"):
        forward = build(tmp_path, task=task)
        with torch.no_grad():
            result, deployed = forward(rgb, None), forward.model(rgb)
        if task == "depth":
            torch.testing.assert_close((result + 1) / 2, deployed)
        else:
            length = result.norm(dim=1, keepdim=True).clamp(min=1e-6)
            torch.testing.assert_close(result / length, deployed)


def test_autocast_leaves_the_last_convolution_in_float32(tmp_path, rgb):
    forward = build(tmp_path)
    seen = {}
    decoder = forward.model.vae.decoder
    decoder.conv_out.register_forward_hook(lambda m, x, y: seen.update(conv_out=y.dtype))
    decoder.conv_in.register_forward_hook(lambda m, x, y: seen.update(conv_in=y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forward(rgb, None).dtype == torch.float32
    assert seen == {"conv_out": torch.float32, "conv_in": torch.bfloat16}
    assert "vae.decoder.conv_out.weight" in forward.model.state_dict()


def test_clamp_inward_cuts_only_gradients_that_lead_outward():
    values = [-2.0, -2.0, -0.5, 0.5, 2.0, 2.0]
    incoming = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    x = torch.tensor(values, requires_grad=True)
    y = clamp_inward(x)
    assert y.tolist() == [-1, -1, -0.5, 0.5, 1, 1]
    y.backward(incoming)
    # -2 with gradient 1 would sink further, 2 with gradient -1 would rise further.
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_a_pass_that_ends_with_the_unet_keeps_less(tmp_path):
    forward = build(tmp_path)
    cpu = torch.device("cpu")
    decoded, denoised = (
        need_of(forward, (32, 40), cpu, torch.float32, denoises=denoises)
        for denoises in (False, True)
    )
    assert decoded.fixed == denoised.fixed
    assert denoised.image < 0.5 * decoded.image


def test_a_noisy_latent_is_answered_at_its_own_timestep(tmp_path, rgb):
    forward = build(tmp_path)
    seen = []
    forward.model.unet.register_forward_pre_hook(lambda _unet, given: seen.append(given[1]))
    xt = torch.randn(2, 4, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = forward(rgb, xt, torch.tensor([3, 700]))
        alone = [
            forward(rgb[i : i + 1], xt[i : i + 1], torch.tensor([t])) for i, t in ((0, 3), (1, 700))
        ]
        forward(rgb, None)
    torch.testing.assert_close(got, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert [each.tolist() for each in seen] == [[3, 700], [3], [700], [999]]
