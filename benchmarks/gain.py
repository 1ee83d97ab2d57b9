"""How many times as fast one thing is as another, and whether that is more than noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 4000


def gain(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """Ratio of two medians with its 95 % interval, of calls that were timed in turn.

    The interval is a percentile bootstrap over rounds: what hits a round hits both of its calls, so they are drawn
    together (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).

    Args:
        slow: seconds of the calls that are expected to take longer, one a round.
        fast: seconds of the others, of the same rounds.
    """
    pairs = np.array([slow, fast], dtype=np.float64)
    rounds = pairs.shape[1]
    drawn = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    medians = np.median(pairs[:, drawn], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    whole = np.median(pairs, axis=1)
    return {"ratio": float(whole[0] / whole[1]), "low": float(low), "high": float(high)}


def in_words(found: dict[str, Any], places: int = 2) -> str:
    """The gain for a table; one whose interval holds 1 is none."""
    ratio, low, high = (f"{found[key]:.{places}f}" for key in ("ratio", "low", "high"))
    if found["low"] <= 1 <= found["high"]:
        return f"no difference within the noise ({low}x to {high}x)"
    return f"**{ratio}x** ({low} to {high})"
