"""GeoWizard checkpoints with random weights: the configs of the published ones at a small width."""

import json
import warnings
from pathlib import Path

import torch

from e2e_deploy.model.tiny import write_text_parts
from tests.export.random_models import randomise

UNET = {
    # lambdalabs' sd-image-variations, widened and with a class: heads are 8 a level, projections 1x1 convolutions
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "cross_attention_dim": 48,
    "norm_num_groups": 8,  # four channels a group, as few pixels are left at the deepest level
    "sample_size": 64,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
}
UNET_V2 = UNET | {
    # of SD2: 64 channels a head at full width, linear projections
    "attention_head_dim": (2, 4, 4, 4),
    "use_linear_projection": True,
    "sample_size": 96,
    "projection_class_embeddings_input_dim": 4,
}
VAE = {
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,  # four channels a group, as few pixels are left at the deepest level
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
IMAGE_ENCODER = {
    # ViT-L/14's sides, and its activation
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 48,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
TEXT_ENCODER = {
    "hidden_size": 48,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 48,
    "max_position_embeddings": 77,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "feature_extractor_type": "CLIPFeatureExtractor",
}


def write_geowizard(folder: Path, *, version=1, seed=0, lively=True) -> Path:
    """v1 as DepthNormalEstimationPipeline saves it; v2 as SD2's folder with unet_v2 put into it.

    ``lively``: every weight is random and felt in the result, which then shows errors, also those of half precision.
    """
    import diffusers
    import transformers

    folder.mkdir(parents=True)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = {1: UNET, 2: UNET_V2}[version]
        generator = torch.Generator().manual_seed(seed)
        network = diffusers.UNet2DConditionModel(**config)
        if lively:
            randomise(network, generator)
        network.float().save_pretrained(folder / {1: "unet", 2: "unet_v2"}[version])
        vae = diffusers.AutoencoderKL(**VAE)
        # with contrast, so that clipping and signs matter; or with little, so that no depth is near zero
        vae.decoder.conv_out.weight.data *= 3 if lively else 0.5
        vae.save_pretrained(folder / "vae")
        diffusers.DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        if version == 1:
            config = transformers.CLIPVisionConfig(**IMAGE_ENCODER)
            encoder = transformers.CLIPVisionModelWithProjection(config)
            if lively:
                randomise(encoder, generator)
            encoder.float().save_pretrained(folder / "image_encoder")
            (folder / "feature_extractor").mkdir()
            (folder / "feature_extractor" / "preprocessor_config.json").write_text(
                json.dumps(PREPROCESSOR)
            )
        else:
            write_text_parts(folder, TEXT_ENCODER)
    name = {1: "DepthNormalEstimationPipeline", 2: "StableDiffusionPipeline"}[version]
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": name, "default_processing_resolution": 128})
    )
    return folder
