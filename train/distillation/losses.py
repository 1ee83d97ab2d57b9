"""How far the halves of a small VAE are from what the teacher says."""

import torch
from torch import Tensor
from torch.nn import functional as F

from e2e_deploy.model.single_step import SingleStepModel, unit_length
from e2e_deploy.train.distillation.answers import Answers, as_learned
from e2e_deploy.train.pretraining.losses import EDGE_WEIGHT, differences
from e2e_deploy.train.step.forward import clamp_inward


def decoder_loss(student: SingleStepModel, answers: Answers) -> Tensor:
    """Absolute error of the result of the teacher's x0, and of the differences between neighbours in it."""
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
    with torch.no_grad():
        context = student.context(answers.rgb_B3HW)
    x0 = student.predict_x0(z, context_NLC=context)
    return error + x0_weight * F.smooth_l1_loss(x0.float(), answers.x0_B4hw)
