"""The model of a run with a small VAE in the place of its own, in parts that a killed run continues.

    <out>/distil/decoder-steps/   the newest checkpoint of each part, also once it is done
                 unet-steps/      where the UNet gets fewer layers
                 encoder-steps/
                 model/           with all: what the run after it starts from; the others are deleted then

The UNet learns from the teacher's latents. The encoder comes after it, because the x0 that it learns by, where
``x0_weight`` is not 0, is then made by the UNet it will have.

Knows: the order, folders, what is measured when. Does not know: what is learned (``losses``), the run that follows.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.errors import UsageError
from e2e_deploy.model.checkpoint import CARD, Checkpoint
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.progress import Count
from e2e_deploy.system.json_files import read_json
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.distillation import UNET_SETTINGS, shape_of
from e2e_deploy.train.config.settings import DistilConfig, TrainConfig
from e2e_deploy.train.distillation.answers import Answers, Rounds, answers_of
from e2e_deploy.train.distillation.coder import with_small_coder
from e2e_deploy.train.distillation.losses import decoder_loss, encoder_loss, unet_loss
from e2e_deploy.train.distillation.measured import Chain, Found, HeldOutPictures
from e2e_deploy.train.distillation.sources import (
    HELD_OUT_EVERY,
    Unreadable,
    Views,
    divided,
    pictures_of,
)
from e2e_deploy.train.distillation.unet import thinned
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pretraining.pretrain import learn
from e2e_deploy.train.step.forward import keep_float32
from e2e_deploy.train.step.step import check_precision

FOLDER = "distil"
PARTS = ("decoder", "unet", "encoder")
"""In their order; without the second where the UNet stays."""
_ON_UNREADABLE = {
    "pictures": "pictures that cannot be read: {count}; others took their place (the first: {first})",
    "held_out": "held-out pictures that cannot be read: {count}; they are not measured (the first: {first})",
}


def distilled(
    config: TrainConfig, teacher: SingleStepModel, start: Checkpoint, device: torch.device
) -> Path:
    """Folder of the model that ``config.distil`` makes of ``teacher``; what is there already stays.

    Without data to train on it is the model of the run.

    Args:
        config: of the run.
        teacher: the start of the run, as it would be trained; moved to ``device``, and not changed.
        start: the checkpoint it came from.
        device: that learns.

    Raises:
        UnavailableError: the precision does not run on ``device``.
        UsageError: the folder holds another distillation, the teacher's VAE has another stride, or its UNet has not
            the layers that ``distil.unet_layers`` would keep.
        InputError: ``distil.pictures`` holds none.
        DataError: a picture is damaged and ``run.on_bad`` is stop, or none can be read.
        E2EDeployError: a file cannot be written, or a loss is NaN.
        KeyboardInterrupt: interrupted; a checkpoint is written.
    """
    return _Distillation(config, teacher, start, device).finish()


class _Distillation:
    def __init__(
        self,
        config: TrainConfig,
        teacher: SingleStepModel,
        start: Checkpoint,
        device: torch.device,
    ) -> None:
        assert config.distil is not None
        check_precision(config.model.precision, device)
        self.config, self.settings, self.device = config, config.distil, device
        self.root = Path(config.run.out) / FOLDER
        self.model = (self.root if config.data else self.root.parent) / "model"
        self.teacher, self.start = teacher, start
        self.in_bf16 = config.model.precision != "fp32"
        self.pictures = pictures_of(config)
        learned, held = divided(len(self.pictures), hold_out=config.eval is None)
        self.learned = len(learned)
        self.views = Views(
            self.pictures,
            learned,
            self.settings.size,
            workers=config.run.workers,
            on_bad=config.run.on_bad,
            augmentation=None if config.augment is None else Augmentation(config.augment),
        )
        self.held_out = HeldOutPictures(config, self.pictures, held)
        self.said = dict.fromkeys(_ON_UNREADABLE, 0)
        facts = {
            "teacher": Path(start.id).name,
            "teacher_sha256": start.sha256(),
            "coder": asdict(shape_of(self.settings)),
            "distil": _learned_by(self.settings),
            "pictures": {"name": self.pictures.name, "images": len(self.pictures)},
            "pictures_sha256": self.pictures.fingerprint(),
            "augment": None if config.augment is None else asdict(config.augment),
            "seed": config.run.seed,
            "precision": config.model.precision,
        }
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))
        """What a model that is done and this run have in common, as JSON gives it back. Not how many pictures were
        learned from, which follows from [eval]: that may change, and then the model stays as it is."""

    def finish(self) -> Path:
        """Do what is left."""
        if (self.model / "model_index.json").is_file():
            self._check_same(self.model, _settings_of(self.model))
            self._remove_steps()  # killed before it could
            return self.model
        teacher = self.teacher.to(self.device).eval()
        layers, shape = self.settings.unet_layers, shape_of(self.settings)
        unet = None if layers is None else thinned(teacher.unet, layers)
        student = with_small_coder(teacher, shape, seed=self.config.run.seed, unet=unet)
        for model in (teacher, student):
            keep_float32(model.get_submodule(model.last_convolution))
        # Also where it is the teacher's own, whose passes have no gradients.
        if self.config.model.gradient_checkpointing is True:
            student.unet.enable_gradient_checkpointing()
        parts = {"decoder": (self._learn_decoder, Chain(teacher, teacher, student))}
        if unet is not None:
            parts["unet"] = (self._learn_unet, Chain(teacher, student, student))
        parts["encoder"] = (self._learn_encoder, Chain(student, student, student))
        measured = {"teacher": self._measured("teacher", None)}
        for name, (learn_part, chain) in parts.items():
            learn_part(student)
            measured[name] = self._measured(name, chain)
            self._say_unreadable()
        write_model(
            self.model,
            student.cpu(),
            self.start,
            resolution=self.config.model.resolution or self.start.resolution,
            trained={
                "distilled": {
                    "settings": self.facts,
                    "held_out": measured,
                    "unreadable": {name: len(each) for name, each in self._unreadable.items()},
                }
            },
            note=self.start.note,
        )
        self._remove_steps()
        return self.model

    def _steps(self, name: str) -> Path:
        return self.root / f"{name}-steps"

    def _remove_steps(self) -> None:
        for name in PARTS:
            shutil.rmtree(self._steps(name), ignore_errors=True)

    def _measured(self, name: str, chain: Chain | None) -> Found:
        """Of the model so far, and said."""
        found = self.held_out.measure(self.teacher, chain)
        if found:
            shown = "  ".join(f"{key} {value:.4f}" for key, value in list(found.items())[:4])
            what = "the teacher" if chain is None else f"distillation of the {name}"
            with Count(name, tenths=False) as count:
                count.say(f"{what}: held-out: {shown}")
        return found

    def _check_same(self, folder: Path, facts: object) -> None:
        if facts != self.facts:
            raise UsageError(
                f"{folder} was distilled with other settings, pictures or teacher: restore them, delete it, or name "
                "another run.out"
            )

    def _check_steps(self, folder: Path, facts: object) -> None:
        """Of a part that goes on, which must learn from the pictures it began with."""
        known = dict(facts) if isinstance(facts, dict) else {}
        learned = known.pop("learned", None)
        self._check_same(folder, known)
        if learned != self.learned:
            raise UsageError(
                f"{folder} learned from {learned} pictures, and this run would from {self.learned}: every "
                f"{HELD_OUT_EVERY}th is held out where there is no [eval]; leave [eval] as it was until the "
                f"distillation is done, delete {self.root}, or name another run.out"
            )

    @property
    def _unreadable(self) -> dict[str, Unreadable]:
        return {"pictures": self.views.unreadable, "held_out": self.held_out.unreadable}

    def _say_unreadable(self) -> None:
        """What was not said before."""
        for name, each in self._unreadable.items():
            if len(each) > self.said[name]:
                self.said[name] = len(each)
                with Count(name, tenths=False) as count:
                    count.say(_ON_UNREADABLE[name].format(count=len(each), first=each.first))

    def _learn_decoder(self, student: SingleStepModel) -> None:
        rounds = self._rounds(predicts=True, decodes=True)
        self._learn(
            "decoder",
            student.vae.decoder,
            lambda: decoder_loss(student, rounds.now),
            rounds,
            steps=self.settings.decoder_steps,
            lr=self.settings.decoder_lr,
        )

    def _learn_unet(self, student: SingleStepModel) -> None:
        rounds = self._rounds(predicts=False, decodes=False)  # the loss asks the teacher
        self._learn(
            "unet",
            student.unet,
            lambda: unet_loss(self.teacher, student, rounds.now),
            rounds,
            steps=self.settings.unet_steps,
            lr=self.settings.unet_lr,
        )

    def _learn_encoder(self, student: SingleStepModel) -> None:
        weight = self.settings.x0_weight
        rounds = self._rounds(predicts=weight > 0, decodes=False)
        self._learn(
            "encoder",
            student.vae.encoder,
            lambda: encoder_loss(student, rounds.now, x0_weight=weight),
            rounds,
            steps=self.settings.encoder_steps,
            lr=self.settings.encoder_lr,
        )

    def _rounds(self, *, predicts: bool, decodes: bool) -> Rounds:
        settings = self.settings

        def answer(rgb_B3HW: Tensor) -> Answers:
            return answers_of(
                self.teacher,
                rgb_B3HW,
                batch=settings.batch,
                predicts=predicts,
                decodes=decodes,
                in_bf16=self.in_bf16,
            )

        return Rounds(
            self.views,
            answer,
            batch=settings.batch,
            uses=settings.uses,
            seed=self.config.run.seed,
            device=self.device,
        )

    def _learn(
        self,
        name: str,
        part: nn.Module,
        loss: Callable[[], Tensor],
        rounds: Rounds,
        *,
        steps: int,
        lr: float,
    ) -> None:
        config = self.config
        learn(
            name,
            part,
            lambda _generator: loss(),
            self._steps(name),
            steps=steps,
            lr=lr,
            seed=config.run.seed,
            in_bf16=self.in_bf16,
            save_every=config.run.checkpoint_every,
            facts=self.facts | {"learned": self.learned},
            check_same=self._check_steps,
            work="distillation",
            on_step=rounds.go_to,
        )


def _learned_by(settings: DistilConfig) -> dict[str, Any]:
    """What decides the weights, pictures apart; nothing of the UNet where it stays as it is."""
    unread = {"pictures", *(UNET_SETTINGS if settings.unet_layers is None else ())}
    return {key: value for key, value in asdict(settings).items() if key not in unread}


def _settings_of(folder: Path) -> object:
    """Those of the distillation that made the model in ``folder``; None where none did."""
    trained = read_json(folder / CARD).get("trained")
    found = trained.get("distilled") if isinstance(trained, dict) else None
    return found.get("settings") if isinstance(found, dict) else None
