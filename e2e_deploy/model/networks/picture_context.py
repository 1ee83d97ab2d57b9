"""CLIP's embedding of the picture as the one token that GeoWizard's cross attentions read.

The whole picture is squeezed to CLIP's square with an antialiased bicubic filter, two constant matrices, then the
encoder's class token is projected (DepthNormalEstimationPipeline of GeoWizard; CLIP as in
lambdalabs/sd-image-variations-diffusers).

N pictures, H W pixels, S CLIP's side, P patches, T patches and the class, C width of the tokens or of the embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.frames import bicubic_matrix
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.networks.parts import compare_weights, described_by, read_weights
from e2e_deploy.model.single_step import resample
from e2e_deploy.packages import require


class PictureContext(nn.Module):
    """From rgb to its embedding, with the layers of transformers' CLIPVisionModelWithProjection.

    Attributes:
        scale_311: factor on rgb in [-1, 1], and ``shift_311`` what is added, which give CLIP's mean 0 and deviation 1;
            both None where the patches take rgb as it is.
        tokens_TC: what is added to zero for the class and to each patch: places, and the class's own.
        side: pixels a side that the encoder takes.
    """

    scale_311: Tensor | None
    shift_311: Tensor | None
    tokens_TC: Tensor

    def __init__(
        self, encoder: Any, *, mean: Sequence[float], deviation: Sequence[float], side: int
    ) -> None:
        super().__init__()
        vision = encoder.vision_model
        self.patch_embedding = vision.embeddings.patch_embedding
        self.first_norm, self.last_norm = vision.pre_layrnorm, vision.post_layernorm
        self.layers = vision.encoder.layers
        self.projection = encoder.visual_projection
        tokens_TC = vision.embeddings.position_embedding.weight.detach().clone()
        tokens_TC[0] += vision.embeddings.class_embedding.detach()
        self.register_buffer("tokens_TC", tokens_TC, persistent=False)
        # rgb comes in [-1, 1], CLIP's mean and deviation are of [0, 1].
        mean_311, deviation_311 = (
            torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, deviation)
        )
        scale_311, shift_311 = 0.5 / deviation_311, (0.5 - mean_311) / deviation_311
        self.register_buffer("scale_311", scale_311.float(), persistent=False)
        self.register_buffer("shift_311", shift_311.float(), persistent=False)
        self.side = side

    def squeeze_picture(self, rgb_N3HW: Tensor) -> Tensor:
        """Rgb at the encoder's size, [N, 3, S, S]."""
        rows, columns = (
            torch.from_numpy(bicubic_matrix(side, self.side)).to(rgb_N3HW.device)
            for side in rgb_N3HW.shape[2:]
        )
        if rgb_N3HW.dtype == torch.float64:
            rows, columns = rows.double(), columns.double()
        # In float32 at least: a constant that is rounded inside the graph is an operator on constants alone.
        return resample(rgb_N3HW.to(rows.dtype), rows, columns).to(rgb_N3HW.dtype)

    def normalise(self, rgb_N3SS: Tensor) -> Tensor:
        """Rgb in [-1, 1] as the encoder was trained on it."""
        if self.scale_311 is None or self.shift_311 is None:
            return rgb_N3SS
        return rgb_N3SS * self.scale_311 + self.shift_311

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """[N, 1, C] of rgb in [-1, 1]."""
        pixels = self.normalise(self.squeeze_picture(rgb_N3HW))
        patches_NPC = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        # Zeros in front for the class: it is a constant, and no operator may have constants alone.
        hidden = self.first_norm(F.pad(patches_NPC, (0, 0, 1, 0)) + self.tokens_TC)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None)
        context: Tensor = self.projection(self.last_norm(hidden[:, :1]))
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
