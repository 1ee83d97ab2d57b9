"""How far the halves of a small VAE, and a UNet with fewer layers, are from what the teacher says."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from e2e_deploy.model.single_step import SingleStepModel, unit_length
from e2e_deploy.train.distillation.answers import Answers, as_learned
from e2e_deploy.train.pretraining.losses import EDGE_WEIGHT, differences
from e2e_deploy.train.step.forward import clamp_inward


def decoder_loss(student: SingleStepModel, answers: Answers) -> Tensor:
    """Absolute error of the result of the teacher's x0, and of the differences between neighbours in it."""
    assert answers.x0_B4hw is not None
    assert answers.result_BCHW is not None
    image = clamp_inward(as_learned(student, student.decode(answers.x0_B4hw).float()))
    if student.kinds[0].form == "vectors":
        image = unit_length(image)
    error = F.l1_loss(image, answers.result_BCHW)
    return error + EDGE_WEIGHT * differences(image, answers.result_BCHW)


def encoder_loss(student: SingleStepModel, answers: Answers, *, x0_weight: float) -> Tensor:
    """Error of the latent, whose numbers have a deviation of about 1, and of the x0 that the UNet makes of it.

    Errors above 1 count linearly.
    """
    z = student.encode(answers.rgb_B3HW)
    error = F.smooth_l1_loss(z.float(), answers.z_B4hw)
    if not x0_weight:
        return error
    assert answers.x0_B4hw is not None
    with torch.no_grad():
        context = student.context(answers.rgb_B3HW)
    x0 = student.predict_x0(z, context_NLC=context)
    return error + x0_weight * F.smooth_l1_loss(x0.float(), answers.x0_B4hw)


def unet_loss(teacher: SingleStepModel, student: SingleStepModel, answers: Answers) -> Tensor:
    """Error of the x0 of the teacher's latent, and of what each block of the UNet hands on there.

    Of the blocks it is the mean over both ways of the squared error, as a share of the teacher's own mean square. The
    teacher's UNet runs here, for what its blocks hand on would be too much to keep: its x0 comes along.
    """
    z = answers.z_B4hw
    with torch.no_grad(), _handed_on(teacher.unet) as wanted:
        context = teacher.context(answers.rgb_B3HW)
        x0_wanted = teacher.predict_x0(z, context_NLC=context).float()
    with _handed_on(student.unet) as found:
        x0 = student.predict_x0(z, context_NLC=context)
    shares = [
        F.mse_loss(mine.float(), its.float()) / its.float().square().mean().clamp(min=1e-12)
        for mine, its in zip(found, wanted, strict=True)
    ]
    error: Tensor = F.smooth_l1_loss(x0.float(), x0_wanted) + torch.stack(shares).mean()
    return error


@contextmanager
def _handed_on(unet: Any) -> Iterator[list[Tensor]]:
    """What the blocks of a UNet give to the next one in the passes within, in the order that they run."""
    outputs: list[Tensor] = []

    def keep(_block: Any, _given: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in (*unet.down_blocks, *unet.up_blocks)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
