"""The paper in miniature: what E2E-FT (arXiv 2409.11355) found, repeated on rendered scenes with e2e-tiny.

A small latent-diffusion depth model is trained as Marigold is (v-prediction, all timesteps), then compared on held-out
scenes: one step with the timestep that "leading" spacing gives (the bug), one step at the right one, many steps with an
ensemble, and the same weights fine-tuned end to end with zeros and with Gaussian noise. The Marigold pipeline of
diffusers makes every prediction, so nothing here depends on our inference.

    e2e-deploy train configs/e2e_tiny_depth.toml          (leaves an autoencoder)
    python -m benchmarks.accuracy.paper_in_miniature --data data/rendered
        --autoencoder runs/e2e_tiny_depth/runs/1/pretrain/autoencoder

Finished stages are kept in --out and skipped when the script runs again.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.accuracy.baselines import best_plane
from benchmarks.report import write_result
from e2e_deploy.frames import parse_size
from e2e_deploy.metrics import depth_metrics, mean_depth_metrics
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.tiny import RESOLUTION
from e2e_deploy.train.accuracy import spread_indices
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import fit
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pretraining.losses import encode_views
from e2e_deploy.train.pretraining.pretrain import learn
from e2e_deploy.train.pretraining.views import load_pictures
from e2e_deploy.train.training import train_model

DEPTH_RANGE_M = (0.1, 100.0)
"""Aligned depth is clipped to it, as the published protocols clip to a data set's range."""


@dataclass(frozen=True)
class Variant:
    """One way to predict: which weights, how many steps, from which latent."""

    name: str
    weights: str
    spacing: str = "trailing"
    steps: int = 1
    ensemble: int = 1
    zeros: bool = False


VARIANTS = (
    Variant("1 step, leading (the bug)", "diffusion", spacing="leading"),
    Variant("1 step, trailing (the fix)", "diffusion"),
    Variant("50 steps x 10", "diffusion", steps=50, ensemble=10),
    Variant("end to end, Gaussian noise", "gaussian"),
    Variant("end to end, zeros", "zeros", zeros=True),
)


def diffusion_model(arguments: argparse.Namespace) -> Path:
    """Folder of the multi-step model: the UNet learns v at every timestep on latents (Marigold, arXiv 2312.02145)."""
    folder: Path = arguments.out / "diffusion"
    if folder.is_dir():
        return folder
    start = open_checkpoint(arguments.autoencoder)
    model = load_model(start).to(arguments.device)
    pictures = load_pictures(arguments.data, parse_size(arguments.size)).to(arguments.device)
    rgb_n4hw, depth_n4hw = encode_views(model, pictures, num_views=arguments.views)
    unet = model.unet.requires_grad_(True).train()
    schedule = diffusers.DDPMScheduler.from_config(start.scheduler)
    device = rgb_n4hw.device

    def loss_of(generator: torch.Generator) -> Tensor:
        indices = torch.randint(len(rgb_n4hw), (arguments.batch,), generator=generator)
        steps = torch.randint(
            schedule.config.num_train_timesteps, (arguments.batch,), generator=generator
        )
        x0 = depth_n4hw[indices]
        noise = torch.randn(x0.shape, generator=generator).to(device)
        steps = steps.to(device)
        noisy = torch.cat([rgb_n4hw[indices], schedule.add_noise(x0, noise, steps)], dim=1)
        context = model.context(noisy)
        v = unet(noisy, steps, context, return_dict=False)[0]
        return F.mse_loss(v.float(), schedule.get_velocity(x0, noise, steps))

    kept = arguments.out / "diffusion-steps"
    learn("diffusion", unet, loss_of, kept, steps=arguments.steps, lr=1e-3, save_every=500)
    unet.requires_grad_(False).eval()
    return write_model(
        folder,
        model.cpu(),
        start,
        resolution=RESOLUTION,
        trained={"diffusion_steps": arguments.steps},
    )


def fine_tuned(arguments: argparse.Namespace, start: Path, noise: str) -> Path:
    """Folder of the multi-step model fine-tuned end to end; the autoencoder stays, as in the paper."""
    data = {"root": str(arguments.data), "size": list(parse_size(arguments.size))}
    steps = arguments.fine_tuning_steps
    config = {
        "task": "depth",
        "start": {"checkpoint": str(start)},
        "data": [data],
        "model": {
            "noise": noise,
            "precision": "bf16",
            "gradient_checkpointing": False,
        },
        "optim": {
            "lr": 3e-4,
            "steps": steps,
            "warmup_steps": min(50, steps // 2),
            "decay_steps": steps,
            "final_lr_ratio": 0.05,
            "micro_batch": 8,
            "effective_batch": 8,
        },
        "run": {
            "out": str(arguments.out / noise),
            "workers": 0,
            "checkpoint_every": 200,
            "panel_every": 0,
        },
    }
    return train_model(parse_config(config)).model


def predictions(
    variant: Variant, folder: Path, rgbs_HW3: list[npt.NDArray[np.uint8]], device: str
) -> tuple[list[npt.NDArray[np.float32]], float]:
    """Depth [H, W] from diffusers of every picture, and seconds per picture (the first, which warms up, left out)."""
    pipeline = diffusers.MarigoldDepthPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing=variant.spacing
    )
    generator = torch.Generator(device).manual_seed(0)
    results, durations = [], []
    for rgb in rgbs_HW3:
        image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
        zeros = torch.zeros(1, 4, rgb.shape[0] // 8, rgb.shape[1] // 8, device=device)
        started = time.perf_counter()
        result = pipeline(
            image,
            num_inference_steps=variant.steps,
            ensemble_size=variant.ensemble,
            processing_resolution=0,
            batch_size=variant.ensemble,
            latents=zeros if variant.zeros else None,
            generator=None if variant.zeros else generator,
            output_type="np",
        )
        durations.append(time.perf_counter() - started)
        results.append(result.prediction[0, ..., 0])
    return results, float(np.median(durations[1:] or durations))


def main() -> None:
    """Train what is not there yet, compare, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/paper-in-miniature"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="128x160")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--fine-tuning-steps", type=int, default=800)
    parser.add_argument("--images", type=int, default=30)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    start = diffusion_model(arguments)
    folders = {"diffusion": start} | {
        noise: fine_tuned(arguments, start, noise) for noise in ("zeros", "gaussian")
    }
    held_out = FolderDataset(arguments.data, "test")
    chosen = spread_indices(len(held_out), arguments.images)
    samples = [fit(held_out.read(i), *parse_size(arguments.size)) for i in chosen]

    def score(predicted: Sequence[npt.NDArray[np.floating[Any]]]) -> dict[str, float]:
        """AbsRel and delta1, means over pictures."""
        rows = [
            depth_metrics(
                p, s.depth_m, s.valid, min_depth=DEPTH_RANGE_M[0], max_depth=DEPTH_RANGE_M[1]
            )
            for p, s in zip(predicted, samples, strict=True)
        ]
        mean = mean_depth_metrics(rows)
        return {"abs_rel": mean.abs_rel, "delta1": mean.delta1}

    table: list[dict[str, Any]] = [
        {
            "name": "plane over pixel coordinates",
            **score([best_plane(s.depth_m, s.valid) for s in samples]),
        }
    ]
    for variant in VARIANTS:
        frames = [sample.rgb for sample in samples]
        results, seconds = predictions(variant, folders[variant.weights], frames, arguments.device)
        table.append({**asdict(variant), **score(results), "seconds_per_image": seconds})
        logging.info("%s", json.dumps(table[-1]))
    by_name = {row["name"]: row for row in table}
    cost = (
        by_name["50 steps x 10"]["seconds_per_image"]
        / by_name["end to end, zeros"]["seconds_per_image"]
    )
    write_result(
        "paper_in_miniature",
        {
            "settings": {k: str(v) for k, v in vars(arguments).items() if not isinstance(v, Path)},
            "size": arguments.size,
            "held_out_images": len(samples),
            "variants": table,
            "cost_of_50_steps_x_10_in_single_steps": cost,
        },
    )


if __name__ == "__main__":
    main()
