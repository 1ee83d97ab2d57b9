"""Trains the bundled e2e-tiny by its configs, and puts the result into the package as fp16 weights.

    e2e-deploy data render data/rendered --train 2400      # as the config says
    python -m benchmarks.accuracy.train_e2e_tiny [--task depth|normals|turbo] [--package]

The files of ``CONFIGS``, in order, are all there is to a training; it continues where it was stopped. --package writes
e2e_deploy/assets/e2e-tiny-<task>; score_e2e_tiny.py measures it and writes its model card.
``turbo`` is depth with a small VAE, distilled from the depth that is packaged; benchmarks/turbo.py measures it.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from e2e_deploy.model.checkpoint import CARD
from e2e_deploy.train.config.reading import config_table, load_config
from e2e_deploy.train.training import train_model

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "depth": ("e2e_tiny_depth", "e2e_tiny_depth_photos"),
    "normals": ("e2e_tiny_normals",),
    "turbo": ("e2e_tiny_turbo", "e2e_tiny_turbo_photos"),
}
"""Names in configs/; each but the first goes on from the result of the one before."""


def package(model: Path, task: str, trainings: Sequence[dict[str, Any]]) -> Path:
    """Copy a trained folder into the package with fp16 weights and what made it: of each training config and images."""
    target = ROOT / "e2e_deploy" / "assets" / f"e2e-tiny-{task}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)
    # diffusers loads both parts as float32; transformers keeps what a file holds, so the text encoder stays as it is.
    for file in (f for part in ("unet", "vae") for f in (target / part).glob("*.safetensors")):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        file.chmod(0o644)  # safetensors writes for the owner alone
    card = json.loads((target / CARD).read_text(encoding="utf-8"))
    distilled = card["trained"].get("distilled")
    kept = {"distilled": distilled} if distilled else {}
    images = sum(each["images"] for each in trainings)
    known = card | {"trained": {"images": images, **kept, "trainings": list(trainings)}}
    (target / CARD).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return target


def main() -> None:
    """Train what is not there yet, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=list(CONFIGS), help="all when left out")
    parser.add_argument("--package", action="store_true")
    arguments = parser.parse_args()
    for task in [arguments.task] if arguments.task else CONFIGS:
        trainings = []
        for name in CONFIGS[task]:
            config = load_config(ROOT / "configs" / f"{name}.toml")
            result = train_model(config)
            card = json.loads((result.model / CARD).read_text(encoding="utf-8"))
            images = card["trained"]["data"][0]["images"]
            trainings.append({"images": images, "config": config_table(config)})
        if arguments.package and result.is_main:
            package(result.model, task, trainings)


if __name__ == "__main__":
    main()
