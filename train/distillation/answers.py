"""What the teacher says about views of pictures, each of which several steps learn from.

Views are drawn in rounds, and everything in a round comes from (seed, round): a run that goes on in the middle of one
asks the teacher for the whole round again, and gets the same.

B images, H W pixels, h w latent pixels, C channels of the result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from e2e_deploy.model.single_step import SingleStepModel, unit_length
from e2e_deploy.train.distillation.sources import Views

ROUND_BATCHES = 8
"""Batches of a round before they are used again, in another order."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Of a batch, on the teacher's device."""

    rgb_B3HW: Tensor
    """float32 in [-1, 1]"""
    z_B4hw: Tensor
    """The scaled latent of the picture."""
    x0_B4hw: Tensor | None
    """The scaled latent of the result; None where it was not asked for."""
    result_BCHW: Tensor | None
    """A map in [-1, 1], unit vectors, or a picture in [-1, 1]; likewise."""

    def of(self, chosen: Tensor) -> "Answers":
        """Those of the images ``chosen``."""
        x0, result = (
            None if each is None else each[chosen] for each in (self.x0_B4hw, self.result_BCHW)
        )
        return Answers(self.rgb_B3HW[chosen], self.z_B4hw[chosen], x0, result)


def as_learned(model: SingleStepModel, image_BCHW: Tensor) -> Tensor:
    """A decoded image as it is compared, not clipped: the mean of a map's channels, other images as they are."""
    (kind,) = model.kinds
    return image_BCHW.mean(dim=1, keepdim=True) if kind.channels == 1 else image_BCHW


def answers_of(
    teacher: SingleStepModel,
    rgb_B3HW: Tensor,
    *,
    batch: int,
    predicts: bool,
    decodes: bool,
    in_bf16: bool,
) -> Answers:
    """What the teacher says, ``batch`` images at a time, without gradients.

    Its x0 only where it ``predicts`` or ``decodes``, its result only where it ``decodes``.
    """
    is_vector = teacher.kinds[0].form == "vectors"
    found: list[tuple[Tensor, ...]] = []
    device = rgb_B3HW.device.type
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=in_bf16):
        for rgb in rgb_B3HW.split(batch):  # type: ignore[no-untyped-call]  # torch's
            z = teacher.encode(rgb)
            one: tuple[Tensor, ...] = (z.float(),)
            if predicts or decodes:
                x0 = teacher.predict_x0(z, context_NLC=teacher.context(rgb))
                one = (*one, x0.float())
            if decodes:
                image = as_learned(teacher, teacher.decode(x0).float()).clamp(-1.0, 1.0)
                one = (*one, unit_length(image) if is_vector else image)
            found.append(one)
    z, x0, result, *_ = (*(torch.cat(each) for each in zip(*found, strict=True)), None, None)
    return Answers(rgb_B3HW, z, x0, result)


class Rounds:
    """The batch of every step.

    Args:
        views: where pictures come from.
        answer: rgb [n, 3, H, W] in [-1, 1] to what the teacher says.
        batch: images a step.
        uses: steps that see an answer.
        seed: of what is drawn.
        device: of the teacher.

    Attributes:
        now: of the step that ``go_to`` was told.
    """

    now: Answers

    def __init__(
        self,
        views: Views,
        answer: Callable[[Tensor], Answers],
        *,
        batch: int,
        uses: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._views, self._answer, self._device = views, answer, device
        self._batch, self._uses, self._seed = batch, uses, seed
        self._number = -1
        self._round: Answers | None = None

    def go_to(self, step: int) -> None:
        """Let ``now`` be the batch of ``step``, counted from 0; errors as of ``Views.draw``."""
        number, within = divmod(step, ROUND_BATCHES * self._uses)
        use, place = divmod(within, ROUND_BATCHES)
        count = ROUND_BATCHES * self._batch
        if self._round is None or number != self._number:
            drawn = self._views.draw(_generator(self._seed, number, 0), count).to(self._device)
            self._round, self._number = self._answer(drawn.float() / 127.5 - 1.0), number
        order = torch.randperm(count, generator=_generator(self._seed, number, 1 + use))
        self.now = self._round.of(order[place * self._batch :][: self._batch].to(self._device))


def _generator(seed: int, number: int, use: int) -> torch.Generator:
    key = np.random.SeedSequence([seed, number, use]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key >> 1))
