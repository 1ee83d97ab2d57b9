"""What a VAE in the place of the checkpoint's own costs: the same pictures with it and without it, in fp32 in PyTorch.

Knows models, subjects and stored references; knows no ONNX.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.manifest import CostEntry
from e2e_deploy.errors import CheckpointError
from e2e_deploy.export.subject import Subject
from e2e_deploy.kinds import KINDS
from e2e_deploy.limits import measure_parity
from e2e_deploy.model.coders.swap import Coder
from e2e_deploy.model.single_step import FrameModel, SingleStepModel
from e2e_deploy.runtime.backends.layout import Results
from e2e_deploy.runtime.checks.verify import as_map, worst

MAX_RATIO = 2.0
"""Of the sizes of two VAEs' latents for one picture; TAESD's are within a tenth of Stable Diffusion's."""

MAX_LATENT_ERROR = 0.7
"""Beyond it latents have little in common: two that are not related at all are 1.4 apart."""


@dataclass(frozen=True)
class Without:
    """What the checkpoint gives with its own VAE.

    Attributes:
        latent_N4hw: scaled, of the first subject's pictures.
        results: of each subject, for the inputs that its reference has.
    """

    latent_N4hw: Tensor
    results: list[Results]


def latents_of(model: SingleStepModel, subject: Subject, count: int) -> Tensor:
    """Scaled latents of the subject's first ``count`` reference pictures."""
    steps = FrameModel(nn.Identity(), subject.plan, subject.outputs)
    frames = torch.from_numpy(reference_frames(subject.plan.frame_hw, count))
    with torch.inference_mode():
        return model.encode(steps.to_network(frames))


def measure_without(model: SingleStepModel, subjects: Sequence[Subject], count: int) -> Without:
    """What ``model`` gives, whose VAE is the checkpoint's own; ``count`` pictures a subject."""
    results = []
    for subject in subjects:
        inputs = subject.inputs(reference_frames(subject.plan.frame_hw, count))
        results.append(subject.run(model, inputs))
    return Without(latents_of(model, subjects[0], count), results)


def judge_latents(
    coder: Coder, model: SingleStepModel, subject: Subject, without: Without
) -> list[str]:
    """What there is to say of the latents that ``coder`` gives in ``model``, a sentence each.

    Raises:
        CheckpointError: they are of another size, so that the UNet is given what it never saw.
    """
    if not coder.gives("encoder"):
        return []
    before = without.latent_N4hw
    now = latents_of(model, subject, len(before))
    ratio = float(now.norm() / before.norm())
    if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        raise CheckpointError(
            f"the latents of {coder.id} are {ratio:.3g} times as large as those of the checkpoint's own VAE: its "
            f"config.json states another scaling_factor ({model.scaling_factor:g}) than it was made for, or it belongs "
            "to another model"
        )
    error = float((now - before).norm() / before.norm())
    told = f"the latents of {coder.id} differ by {error:.1%} from those of the checkpoint's own VAE"
    if error > MAX_LATENT_ERROR:
        told += ": it was made for another latent space, and the results are worth little"
    return [told]


def costs(subjects: Sequence[Subject], folder: Path, without: Without) -> list[CostEntry]:
    """How far the references in ``folder`` are from the results ``without``, an entry a subject and output."""
    entries = []
    for subject, before in zip(subjects, without.results, strict=True):
        with np.load(folder / subject.entry.reference, allow_pickle=False) as stored:
            now: dict[str, npt.NDArray[Any]] = dict(stored)
        for kind in subject.outputs:
            name = KINDS[kind].output
            parities = [
                measure_parity(kind, *(as_map(subject.entry, each) for each in pair))
                for pair in zip(now[name], before[name], strict=True)
            ]
            entries.append(
                CostEntry(
                    frame_size=list(subject.entry.frame_hw),
                    output=name,
                    parity=asdict(worst(parities)),
                )
            )
    return entries
