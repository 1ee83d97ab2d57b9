"""CLIP's embedding of the picture as the one token that GeoWizard's cross attentions read.

The whole picture is squeezed to CLIP's square with an antialiased bicubic filter, two constant matrices, then the
encoder's class token is projected (DepthNormalEstimationPipeline of GeoWizard; CLIP as in
lambdalabs/sd-image-variations-diffusers).

N pictures, H W pixels, S CLIP's side, C width of the embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.frames import bicubic_matrix
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.networks.parts import compare_weights, described_by, read_weights
from e2e_deploy.model.single_step import resample
from e2e_deploy.packages import require


class PictureContext(nn.Module):
    """From rgb to its embedding.

    Attributes:
        encoder: transformers' CLIPVisionModelWithProjection.
        scale_311: factor on rgb in [-1, 1], and ``shift_311`` what is added, which give CLIP's mean 0 and deviation 1;
            both None where the encoder takes rgb as it is.
        side: pixels a side that the encoder takes.
    """

    scale_311: Tensor | None
    shift_311: Tensor | None

    def __init__(
        self, encoder: Any, *, mean: Sequence[float], deviation: Sequence[float], side: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        mean_311 = torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)
        deviation_311 = torch.tensor(deviation, dtype=torch.float64).view(3, 1, 1)
        # rgb comes in [-1, 1], CLIP's mean and deviation are of [0, 1].
        self.register_buffer("scale_311", (0.5 / deviation_311).float(), persistent=False)
        self.register_buffer(
            "shift_311", ((0.5 - mean_311) / deviation_311).float(), persistent=False
        )
        self.side = side

    def squeeze_picture(self, rgb_N3HW: Tensor) -> Tensor:
        """Rgb at the encoder's size, [N, 3, S, S]."""
        rows, columns = (
            torch.from_numpy(bicubic_matrix(side, self.side)).to(rgb_N3HW)
            for side in rgb_N3HW.shape[2:]
        )
        return resample(rgb_N3HW, rows, columns)

    def normalise(self, rgb_N3SS: Tensor) -> Tensor:
        """Rgb in [-1, 1] as the encoder was trained on it."""
        if self.scale_311 is None or self.shift_311 is None:
            return rgb_N3SS
        return rgb_N3SS * self.scale_311 + self.shift_311

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """[N, 1, C] of rgb in [-1, 1]."""
        vision = self.encoder.vision_model
        hidden = vision.embeddings(self.normalise(self.squeeze_picture(rgb_N3HW)))
        hidden = vision.pre_layrnorm(hidden)
        for layer in vision.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        context: Tensor = self.encoder.visual_projection(vision.post_layernorm(hidden[:, :1]))
        return context


PREPROCESSOR = "feature_extractor/preprocessor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""What CLIPImageProcessor takes where its config is silent."""


def load_picture_context(checkpoint: Checkpoint, width: int) -> PictureContext:
    """The image encoder and its preprocessing in float32, eval mode, on the CPU, without gradients.

    Raises:
        CheckpointError: a weight is missing or has another shape, a config describes no such encoder, or another
            picture size or width than the rest of the checkpoint.
    """
    transformers = require("transformers", "export")
    transformers.utils.logging.disable_progress_bar()
    part, model_class = "image_encoder", transformers.CLIPVisionModelWithProjection
    weights = checkpoint.weights[part]
    with described_by(checkpoint, part, model_class):
        config = transformers.CLIPVisionConfig.from_dict(dict(checkpoint.configs[part]))
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    # Older files hold the positions' indices too.
    compare_weights(weights, expected, exact=False)
    state = read_weights(weights)
    with described_by(checkpoint, part, model_class):
        encoder = model_class.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        )
    encoder.requires_grad_(False).eval()
    if config.projection_dim != width:
        raise CheckpointError(
            f"the image encoder in {checkpoint.path} gives {config.projection_dim} numbers, the unet expects {width}"
        )
    preprocessor = checkpoint.files[PREPROCESSOR]
    crop = preprocessor.get("crop_size") or config.image_size
    sides = crop.values() if isinstance(crop, dict) else [crop]
    if any(side != config.image_size for side in sides):
        raise CheckpointError(
            f"{checkpoint.path / PREPROCESSOR} has a crop_size of {crop}; the image encoder takes {config.image_size}"
        )
    return PictureContext(
        encoder,
        mean=preprocessor.get("image_mean") or CLIP_MEAN,
        deviation=preprocessor.get("image_std") or CLIP_DEVIATION,
        side=config.image_size,
    )
