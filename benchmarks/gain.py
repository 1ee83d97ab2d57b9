"""How many times as fast one thing is as another, for results in JSON and tables made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from e2e_deploy.runtime.checks import turns


def gain(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """``turns.gain`` for a result's JSON: ratio, low, high."""
    return asdict(turns.gain(slow, fast))


def in_words(found: Mapping[str, float], places: int = 2) -> str:
    """The gain for a table; one whose interval holds 1 is none."""
    ratio, low, high = (f"{found[key]:.{places}f}" for key in ("ratio", "low", "high"))
    if turns.Gain(**found).is_noise:
        return f"no difference within the noise ({low}x to {high}x)"
    return f"**{ratio}x** ({low} to {high})"
