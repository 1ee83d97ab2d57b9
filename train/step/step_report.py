"""What one optimizer step did, in numbers."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One optimizer step, over all processes."""

    step: int
    """Steps done after this one."""
    loss: float | None
    """Mean over the valid pixels, see ``LossConfig.mean``: metres for depth, radians for normals; None when no image
    of the step has a usable truth, and then nothing was changed."""
    direction: float
    """The same mean of the term against inverted depth, metres, before its weight."""
    grad_norm: float
    """Before clipping."""
    lr: float
    num_images: int
    num_degenerate: int
    """Of this step, as the next four: images without a usable truth."""
    num_flat: int
    """Images whose prediction is the same everywhere, so that it has no gradient."""
    num_negative: int
    """Images whose fitted scale is negative: their depth is inverted."""
    num_bad: int
    """Samples that could not be read and were replaced."""
    skipped: bool
    """The step was left out because loss or gradient was NaN or infinite."""
    terms: dict[str, float] = field(default_factory=dict)
    """Means as ``loss``, of the terms of a loss of several, each before its weight; empty for a loss of one."""

    @property
    def teaches_nothing(self) -> bool:
        """Whether no image gave a gradient."""
        return self.num_degenerate + self.num_flat >= self.num_images

    def __str__(self) -> str:
        """The loss, and the images that are not as they should be."""
        parts = ["loss none" if self.loss is None else f"loss {self.loss:.4f}"]
        parts += [
            f"{name} {count}/{self.num_images}"
            for name, count in (
                ("inverted", self.num_negative),
                ("no usable truth", self.num_degenerate),
                ("flat prediction", self.num_flat),
                ("unreadable", self.num_bad),
            )
            if count
        ]
        return "  ".join(parts)
