import time

import numpy as np
import pytest

from e2e_deploy.runtime.checks.turns import gain, in_turn
from e2e_deploy.runtime.timing import summarise


def times(rng, median, rounds=40, spread=0.02):
    return list(median * rng.lognormal(0, spread, rounds))


def test_a_gain_is_the_ratio_of_medians(rng):
    found = gain(times(rng, 0.3), times(rng, 0.2))
    assert found.ratio == pytest.approx(1.5, abs=0.03)
    assert 1.45 < found.low < found.ratio < found.high < 1.55
    assert not found.is_noise


def test_noise_is_no_gain(rng):
    noise = [gain(times(rng, 0.2), times(rng, 0.2)).is_noise for _ in range(50)]
    assert sum(noise) >= 42  # 95 % of 50, less three sigma


def test_what_hits_a_whole_round_is_no_noise(rng):
    """A machine that is twice as slow in half of the rounds: the rounds are compared with themselves."""
    busy = np.where(np.arange(40) % 2, 2.0, 1.0)
    slow, fast = busy * times(rng, 0.3, spread=0.001), busy * times(rng, 0.2, spread=0.001)
    found = gain(slow, fast)
    assert 1.45 < found.low <= found.high < 1.55


def test_calls_take_turns_in_both_orders_on_the_same_frame(rng):
    order = []

    def call(name, seconds):
        def run(frame):
            order.append((name, frame.tobytes()))
            time.sleep(seconds)

        return run

    frames = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(3)]
    calls = (call("a", 0.002), call("b", 0.01), call("c", 0))
    seconds = in_turn(calls, frames, count=4, warm_up=2)
    assert [name for name, _ in order] == ["a", "b", "c", "c", "b", "a"] * 3
    assert [len({frame for _, frame in order[i : i + 3]}) for i in range(0, 18, 3)] == [1] * 6
    assert [len(each) for each in seconds] == [4, 4, 4]
    first, second, _ = map(summarise, seconds)
    assert second.p50_ms >= 10 > first.p50_ms >= 2


@pytest.mark.parametrize(("rounds", "is_noise"), [(1, True), (5, True), (6, False)])
def test_so_few_rounds_show_no_difference(rounds, is_noise):
    found = gain([0.3] * rounds, [0.2] * rounds)
    assert found.is_noise is is_noise
    assert found.ratio == pytest.approx(1.5)
