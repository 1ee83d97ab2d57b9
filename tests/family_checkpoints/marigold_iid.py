"""Marigold-IID at a small width: the UNet's channels, the schedule and the targets as the published ones have them."""

from pathlib import Path

from tests.small_checkpoint import write_small

TARGETS = {
    "appearance": {
        "target_names": ["albedo", "material"],
        "albedo": {"prediction_space": "srgb", "up_to_scale": False},
        "material": {
            "prediction_space": "stack",
            "sub_target_names": ["roughness", "metallicity", None],
        },
        "roughness": {"prediction_space": "linear", "up_to_scale": False},
        "metallicity": {"prediction_space": "linear", "up_to_scale": False},
    },
    "lighting": {
        "target_names": ["albedo", "shading", "residual"],
        "albedo": {"prediction_space": "linear", "up_to_scale": True},
        "shading": {"prediction_space": "linear", "up_to_scale": True},
        "residual": {"prediction_space": "linear", "up_to_scale": True},
    },
}
ZERO_SNR = {"rescale_betas_zero_snr": True, "set_alpha_to_one": True}


def write_iid(folder: Path, task="appearance", *, unet=(), index=()) -> Path:
    """A checkpoint for ``task`` with random weights."""
    count = len(TARGETS[task]["target_names"])
    return write_small(
        folder,
        unet={"in_channels": 4 + 4 * count, "out_channels": 4 * count} | dict(unet),
        scheduler=ZERO_SNR,
        index={
            "_class_name": "MarigoldIntrinsicsPipeline",
            "prediction_type": "intrinsics",
            "target_properties": TARGETS[task],
            "default_denoising_steps": 4,
            "scale_invariant": None,
            "shift_invariant": None,
        }
        | dict(index),
    )
