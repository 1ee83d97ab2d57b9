"""DepthMaster checkpoints with random weights: no scheduler, and a UNet with a Fourier block."""

from pathlib import Path

from e2e_deploy.model.networks.fourier import FourierUNet
from tests.family_checkpoints.sd2 import write_sd2


def write_depthmaster(folder: Path, *, index=(), **changes) -> Path:
    """Of SD2's configs."""
    names = {
        "_class_name": "DepthMasterPipeline",
        "default_processing_resolution": 768,
        "scale_invariant": True,
        "shift_invariant": True,
    }
    return write_sd2(
        folder,
        index=names | dict(index),
        scheduler=None,
        make_unet=FourierUNet.from_config,
        **changes,
    )
