import pytest
import torch
import torch.nn.functional as F

from e2e_deploy.model.networks.dpt_head import DPTHead, result_side, walk_head
from tests.export.random_models import randomise

CHANNELS = 16


def features_of(widths, latent_hw, *, batch=1, seed=0):
    """Features with the shapes that a UNet of those widths gives, the finest first."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [latent_hw, latent_hw]
    for _ in widths[2:]:
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return [
        torch.randn(batch, width, *size, generator=generator, dtype=torch.float64)
        for width, size in zip(widths, sizes, strict=False)
    ]


def random_head(widths, channels=CHANNELS):
    head = DPTHead(widths, channels).double().eval()
    randomise(head, torch.Generator().manual_seed(1))
    return head


def transformers_head(head, widths):
    """transformers' DPT neck and depth head with the same weights: [N, H, W], its last activation a ReLU."""
    dpt = pytest.importorskip("transformers.models.dpt.modeling_dpt")
    config = dpt.DPTConfig(
        neck_hidden_sizes=list(widths),
        fusion_hidden_size=CHANNELS,
        add_projection=False,
        use_bias_in_fusion_residual=False,
        use_batch_norm_in_fusion_residual=False,
    )
    stage, last = dpt.DPTFeatureFusionStage(config), dpt.DPTDepthEstimationHead(config)
    # transformers makes that convolution for 256 channels whatever the config says.
    last.projection = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    last.double().load_state_dict(head.head.state_dict())
    # transformers has a residual unit that its first layer never runs.
    lacking = stage.double().load_state_dict(head.neck.fusion_stage.state_dict(), strict=False)
    assert all(key.startswith("layers.0.residual_layer1") for key in lacking.missing_keys)
    assert not lacking.unexpected_keys

    def run(features):
        doubled = F.interpolate(features[0], scale_factor=2, mode="nearest")
        finest = head.feature_upsample_0.conv(doubled)
        each = [conv(x) for conv, x in zip(head.neck.convs, [finest, *features[1:]], strict=True)]
        return last(stage(each))

    return run


@pytest.mark.parametrize("latent_hw", [(4, 8), (9, 5)])
def test_the_head_is_transformers_dpt_but_for_the_last_activation(latent_hw):
    widths = (16, 32, 48, 48)
    head = random_head(widths)
    features = features_of(widths, latent_hw, batch=2)
    with torch.no_grad():
        head.head.head[-1].bias -= head(features).median()  # so that the ReLU cuts off half
        ours = head(features)
        theirs = transformers_head(head, widths)(features)
    assert ours.min() < -0.05 < 0.05 < ours.max()
    torch.testing.assert_close(ours[:, 0].relu(), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [1, 5, 8, 9, 54])
def test_the_side_of_the_result_is_known_before(levels, side):
    widths = (8,) * levels
    with torch.no_grad(), torch.device("meta"):
        features = [f.float().to("meta") for f in features_of(widths, (side, 3))]
        result = DPTHead(widths, 4)(features)
    assert result.shape == (1, 1, result_side(side, levels), result_side(3, levels))


def test_where_every_level_halves_exactly_the_result_is_eight_times_the_latent():
    assert [result_side(side, 4) for side in (8, 16, 24, 72, 96)] == [64, 128, 192, 576, 768]
    assert result_side(54, 4) == 448  # 432 pixels of a 16:9 picture at 768


def test_the_names_of_the_weights_are_the_published_ones():
    names = set(DPTHead((8, 8, 8, 8), 4).state_dict())
    residual = {f"residual_layer{i}.convolution{k}.weight" for i in (1, 2) for k in (1, 2)}
    layers = {f"layers.{i}.{name}" for i in (1, 2, 3) for name in residual}
    layers |= {f"layers.0.{name}" for name in residual if "layer2" in name}
    layers |= {f"layers.{i}.projection.{kind}" for i in range(4) for kind in ("weight", "bias")}
    expected = {f"neck.fusion_stage.{name}" for name in layers}
    expected |= {f"neck.convs.{i}.weight" for i in range(4)}
    places = ("feature_upsample_0.conv", "head.projection", *(f"head.head.{i}" for i in (0, 2, 4)))
    expected |= {f"{place}.{kind}" for place in places for kind in ("weight", "bias")}
    assert names == expected


def test_walking_a_head_without_numbers():
    with torch.device("meta"):
        walk_head(DPTHead((8, 8, 8, 8), 4))
        head = DPTHead((8, 8, 8, 8), 4)
        head.head.head[2] = torch.nn.Conv2d(5, 32, 3)
    with pytest.raises(RuntimeError):
        walk_head(head)
