"""Lotus checkpoints with random weights, as train_lotus_d.py and train_lotus_g.py save them."""

from pathlib import Path

from tests.family_checkpoints.sd2 import write_sd2

CLASSES = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}


def write_lotus(folder: Path, variant="d", *, unet=(), index=(), **changes) -> Path:
    """Of SD2-base's configs; ``variant`` g takes noise after the rgb latent."""
    channels = {"in_channels": {"d": 4, "g": 8}[variant]}
    return write_sd2(
        folder,
        unet=CLASSES | channels | dict(unet),
        index={"_class_name": f"Lotus{variant.upper()}Pipeline"} | dict(index),
        scheduler={"prediction_type": "epsilon"},
        **changes,
    )
