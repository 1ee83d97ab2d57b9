import warnings

import pytest
import torch

from e2e_deploy.model.networks.unet_features import EndlessUNet, unet_features, walk_features
from tests.export.random_models import UNET, randomise

THREE_LEVELS = {
    "in_channels": 4,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (1, 2, 4),
    "layers_per_block": 2,
}


@pytest.mark.parametrize("latent_hw", [(8, 4), (9, 6), (5, 7)])
def test_features_are_what_diffusers_own_forward_passes_on(latent_hw):
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = diffusers.UNet2DConditionModel(**(UNET | THREE_LEVELS)).double().eval()
    generator = torch.Generator().manual_seed(0)
    randomise(unet, generator)
    latent = torch.randn(2, 4, *latent_hw, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 3, 24, generator=generator, dtype=torch.float64)
    passed = []
    for block in unet.up_blocks:
        block.register_forward_hook(lambda _module, _given, result: passed.append(result))
    with torch.no_grad():
        unet(latent, 1, context)
        expected, passed[:] = passed[::-1], []
        unet.conv_norm_out = unet.conv_out = None
        features = unet_features(unet, latent, 1, context)
    assert [f.shape[1] for f in features] == [32, 64, 64]
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_unet_that_reads_more_is_refused():
    with pytest.raises(ValueError, match=r"class_embed_type is 'projection'; .* has None"):
        EndlessUNet.from_config(
            UNET | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
        )


def test_walking_a_unet_without_numbers_compares_its_widths():
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        unet = EndlessUNet.from_config(UNET | THREE_LEVELS)
    walk_features(unet)
    unet.register_to_config(block_out_channels=(32, 64, 96))
    with pytest.raises(ValueError, match=r"features are \[32, 64, 64\] wide, not \[32, 64, 96\]"):
        walk_features(unet)
