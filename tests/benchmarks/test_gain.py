"""A gain is one only when the rounds agree on it."""

import numpy as np

from benchmarks.gain import gain, in_words


def times(rng, median, rounds=40, spread=0.02):
    return list(median * rng.lognormal(0, spread, rounds))


def test_a_gain_is_the_ratio_of_medians(rng):
    found = gain(times(rng, 0.3), times(rng, 0.2))
    assert abs(found["ratio"] - 1.5) < 0.03
    assert 1.45 < found["low"] < found["ratio"] < found["high"] < 1.55
    assert in_words(found, 1) == "**1.5x** (1.5 to 1.5)"


def test_noise_is_no_gain(rng):
    told = [in_words(gain(times(rng, 0.2), times(rng, 0.2))) for _ in range(50)]
    assert (
        sum("no difference within the noise" in text for text in told) >= 42
    )  # 95 % of 50, less three sigma


def test_what_hits_a_whole_round_is_no_noise(rng):
    """A machine that is twice as slow in half of the rounds: the rounds are compared with themselves."""
    busy = np.where(np.arange(40) % 2, 2.0, 1.0)
    slow, fast = busy * times(rng, 0.3, spread=0.001), busy * times(rng, 0.2, spread=0.001)
    found = gain(slow, fast)
    assert 1.45 < found["low"] <= found["high"] < 1.55
