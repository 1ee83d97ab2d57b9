"""Random weights made into a start for end-to-end training, in two parts that a killed run continues.

    <out>/pretrain/start/         the random weights
                   autoencoder/   with a trained autoencoder
                   unet/          with a trained UNet too: what the end-to-end run starts from
                   <part>-steps/  the newest checkpoint of a part that is not finished

Knows: the order, folders, the optimizer. Does not know: what is learned (``losses``), the end-to-end run.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.model.checkpoint import CARD, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.model.tiny import RESOLUTION, UNTRAINED, build_tiny
from e2e_deploy.progress import Count
from e2e_deploy.system.json_files import read_json
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pretraining.losses import (
    Loss,
    autoencoder_loss,
    set_scaling_factor,
    unet_loss,
)
from e2e_deploy.train.pretraining.views import Pictures, load_pictures
from e2e_deploy.train.run.interruption import Interruption
from e2e_deploy.train.run.resume import (
    Progress,
    checkpoint_folders,
    load_weights,
    read_state,
    save_checkpoint,
)

FOLDER = "pretrain"
BATCHES = {"autoencoder": 8, "unet": 16}
LEARNING_RATES = {"autoencoder": 2e-3, "unet": 1e-3}
WARM_UP = 1 / 20
"""Share of the steps; a cosine to zero follows."""
NUM_LINES = 20
"""Of each part, in a pipe."""


def pretrained(config: TrainConfig, device: torch.device) -> Path:
    """Folder of the model that ``config.pretrain`` makes of random weights; what is there already stays.

    Raises:
        UsageError: the folder holds another pretraining.
        DataError: the data set lacks depth or normals, or a sample is damaged and ``run.on_bad`` is stop.
        E2EDeployError: a file cannot be written, or a loss is NaN.
        KeyboardInterrupt: interrupted; a checkpoint is written.
    """
    return _Pretraining(config, device).finish()


class _Pretraining:
    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        assert config.pretrain is not None
        self.config, self.settings, self.device = config, config.pretrain, device
        self.root = Path(config.run.out) / FOLDER
        (self.data,) = config.data
        dataset = FolderDataset(self.data.root, self.data.split, cache_gb=self.data.cache_gb)
        self.facts: dict[str, Any] = {
            "pretrain": asdict(config.pretrain),
            "data": {"name": dataset.spec.name, "split": self.data.split},
            "data_sha256": dataset.fingerprint(),
            "size": list(self.data.size or ()),
            "seed": config.run.seed,
            "precision": config.model.precision,
        }
        """What two pretrainings that give the same weights have in common."""
        if config.augment is not None:
            self.facts["augment"] = asdict(config.augment)

    def finish(self) -> Path:
        """Do the parts that are left."""
        folder = build_tiny(self.root / "start", self.config.task, seed=self.config.run.seed)
        for name, train, note in (
            ("autoencoder", self._train_autoencoder, UNTRAINED),
            ("unet", self._train_unet, ""),
        ):
            before, folder = folder, self.root / name
            if folder.is_dir():
                card = read_json(folder / CARD)
                is_ours = card.get("task") == self.config.task
                self._check_same(folder, card.get("trained") if is_ours else None)
            else:
                start = open_checkpoint(before)
                model = load_model(start).to(self.device)
                train(model)
                write_model(
                    folder,
                    model.cpu(),
                    start,
                    resolution=RESOLUTION,
                    trained=self.facts,
                    note=note,
                )
            # Also where the model is there: it may have been killed in between.
            shutil.rmtree(self._steps(name), ignore_errors=True)
        return folder

    def _steps(self, name: str) -> Path:
        return self.root / f"{name}-steps"

    def _check_same(self, folder: Path, facts: object) -> None:
        if facts != self.facts:
            raise UsageError(
                f"{folder} was pretrained with other settings or data: restore them, delete {self.root}, or name "
                "another run.out"
            )

    @cached_property
    def pictures(self) -> Pictures:
        """Read when the first part needs them."""
        data, size = self.data, self.data.size
        assert size is not None
        limit, on_bad = self.settings.images, self.config.run.on_bad
        augmentation = Augmentation(self.config.augment) if self.config.augment else None
        pictures = load_pictures(
            *(data.root, size),
            split=data.split,
            limit=limit,
            on_bad=on_bad,
            augmentation=augmentation,
            cache_gb=data.cache_gb,
        )
        return pictures.to(self.device)

    def _train_autoencoder(self, model: SingleStepModel) -> None:
        loss = autoencoder_loss(model, self.pictures, batch=BATCHES["autoencoder"])
        self._learn("autoencoder", model.vae, loss, steps=self.settings.autoencoder_steps)
        set_scaling_factor(model, self.pictures)

    def _train_unet(self, model: SingleStepModel) -> None:
        views, seed = self.settings.views, self.config.run.seed
        loss = unet_loss(model, self.pictures, batch=BATCHES["unet"], num_views=views, seed=seed)
        self._learn("unet", model.unet, loss, steps=self.settings.unet_steps)

    def _learn(self, name: str, module: nn.Module, loss_of: Loss, *, steps: int) -> None:
        config = self.config
        learn(
            name,
            module,
            loss_of,
            self._steps(name),
            steps=steps,
            lr=LEARNING_RATES[name],
            seed=config.run.seed,
            in_bf16=config.model.precision != "fp32",
            save_every=config.run.checkpoint_every,
            facts=self.facts,
            check_same=self._check_same,
        )


def learn(
    name: str,
    module: nn.Module,
    loss_of: Loss,
    root: Path,
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    in_bf16: bool = True,
    save_every: int = 1000,
    facts: Mapping[str, Any] | None = None,
    check_same: Callable[[Path, object], None] = lambda folder, facts: None,
    work: str = "pretraining",
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train ``module`` with AdamW, a warm-up and a cosine to zero; goes on from the newest checkpoint in ``root``.

    Args:
        name: of the work, for people and of the weights' file.
        module: on its device; trains, and is frozen afterwards, without gradients.
        loss_of: of one step.
        root: folder of the checkpoints.
        steps: in all.
        lr: the highest learning rate.
        seed: of what is drawn.
        in_bf16: autocast; weights and optimizer stay in float32.
        save_every: steps between checkpoints; an interruption and the last step save too.
        facts: plain JSON values, kept in the checkpoints.
        check_same: gets a checkpoint and its facts before it is loaded.
        work: what is done with it, for people.
        on_step: told each step, counted from 0, before its loss is asked for.

    Raises:
        CheckpointError: the newest checkpoint cannot be used.
        E2EDeployError: a file cannot be written, or loss or gradient is NaN.
        KeyboardInterrupt: interrupted; a checkpoint is written.
    """
    trained = _Trained(name, module.requires_grad_(True).train(), root)
    first = trained.resume(check_same)
    device = trained.parameters[0].device
    losses: list[Tensor] = []
    with Interruption() as interruption, Count(name, first=first, tenths=False) as count:
        for step in range(first, steps):
            on_step(step)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bf16):
                loss = loss_of(_generator(seed, step))
            norm = trained.step(loss, lr=lr * _factor(step, steps))
            losses.append(torch.where(norm.isfinite(), loss.detach(), math.nan))
            done, is_interrupted = step + 1, interruption.requested
            count(done, steps)
            if done * NUM_LINES // steps > step * NUM_LINES // steps:
                count.say(
                    f"{work} of the {name}: step {done}/{steps}  loss {_mean(losses, work):.4f}"
                )
                losses.clear()
            if is_interrupted or done % save_every == 0 or done == steps:
                if losses:  # before the last good checkpoint gives way
                    _mean(losses, work)
                trained.save(done, facts or {})
            if is_interrupted:
                count.say(f"interrupted; step {done} of the {name} is saved")
                raise KeyboardInterrupt
    trained.optimizer.zero_grad(set_to_none=True)
    module.requires_grad_(False).eval()


class _Trained:
    """A module with its optimizer, and the newest checkpoint of both."""

    def __init__(self, name: str, module: nn.Module, root: Path) -> None:
        self.parts, self.root = {name: module}, root
        self.named = list(module.named_parameters())
        self.parameters = [parameter for _, parameter in self.named]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=1e-2, fused=True)

    def resume(self, check_same: Callable[[Path, object], None]) -> int:
        """Steps that the newest checkpoint has done, after loading it."""
        folders = checkpoint_folders(self.root)
        if not folders:
            return 0
        progress, facts = read_state(folders[-1])
        check_same(folders[-1], facts)
        load_weights(folders[-1], self.parts, self.named, self.optimizer)
        return progress.step

    def step(self, loss: Tensor, *, lr: float) -> Tensor:
        """The norm of the gradient, before it is clipped."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return norm

    def save(self, step: int, facts: Mapping[str, Any]) -> None:
        progress = Progress(step=step)
        save_checkpoint(self.root, progress, facts, self.parts, self.named, self.optimizer, keep=1)


def _mean(losses: list[Tensor], work: str) -> float:
    """Of the losses, which stay on their device until here, so that no step waits."""
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise E2EDeployError(
            f"the loss or gradient of the {work} is NaN or infinite, and nothing of it is saved: look at the data with "
            "`check_data`, or lower the learning rate"
        )
    return mean


def _factor(step: int, steps: int) -> float:
    """Of the learning rate in ``step``, counted from 0."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _generator(seed: int, step: int) -> torch.Generator:
    """Of one step, so that no generator's state must be kept."""
    key = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key >> 1))
