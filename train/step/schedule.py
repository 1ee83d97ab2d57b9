"""The learning rate over the run: linear warm-up, then exponential decay (E2E-FT, Marigold).

Knows: the factor on the base rate, a pure function of the step, so there is no state to save.
"""


def lr_factor(step: int, *, warmup_steps: int, decay_steps: int, final_ratio: float) -> float:
    """Factor on the base learning rate at optimizer step ``step``, counted from 0.

    ``(step + 1) / warmup_steps`` during the warm-up; then ``final_ratio`` to the power of the share
    of the decay that is done, from 1 at the end of the warm-up to ``final_ratio`` at ``decay_steps``,
    where it stays. Fits ``torch.optim.lr_scheduler.LambdaLR``. Every step is one optimizer step
    of all processes together, so the number of processes does not enter.

    Args:
        step: 0 or more.
        warmup_steps: 0 means none; the first step then has factor 1.
        decay_steps: the step at which the decay ends; above ``warmup_steps``.
        final_ratio: above 0; 1 means constant after the warm-up.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / (decay_steps - warmup_steps))
    return float(final_ratio**done)
