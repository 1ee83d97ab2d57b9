"""Export of GeoWizard at its real width, with random weights: seconds a stage, peak memory, parity of both results.

python -m benchmarks.export.geowizard --work DIR [--frame-size 64x64] [--precision fp32]
"""

import json
from pathlib import Path

import torch

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.progress import Stages

UNET = {
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "use_linear_projection": False,
    "sample_size": 64,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
}
"""What sets it apart from SD2's: sd-image-variations', with a class."""
IMAGE_ENCODER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
"""CLIP's ViT-L/14."""


def write_geowizard(folder: Path) -> None:
    """As DepthNormalEstimationPipeline saves it; float16, 2.5 GB."""
    import transformers

    full_size.write_full_size(folder, unet=UNET)
    torch.set_default_dtype(torch.float16)
    config = transformers.CLIPVisionConfig(**IMAGE_ENCODER)
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    torch.set_default_dtype(torch.float32)
    (folder / "feature_extractor").mkdir()
    preprocessor = {"crop_size": {"height": 224, "width": 224}}
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(
        json.dumps(preprocessor), encoding="utf-8"
    )
    index = {"_class_name": "DepthNormalEstimationPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    card = {"family": "geowizard", "task": "geometry", "note": "random weights"}
    (folder / "e2e_deploy.json").write_text(json.dumps(card), encoding="utf-8")


def main() -> None:
    """Make the checkpoint if needed, export it, write the result."""
    parser = full_size.options(__doc__, "fp32")
    parser.set_defaults(frame_size="64x64", resolution=0)
    arguments = parser.parse_args()
    checkpoint = full_size.made(
        arguments.work / "geowizard", write_geowizard, last="e2e_deploy.json"
    )
    stages = Stages()
    bundle = full_size.export(arguments, stages, checkpoint)
    found = full_size.exported(bundle, checkpoint, stages)
    write_result(f"export_geowizard_{arguments.precision}", found)


if __name__ == "__main__":
    main()
