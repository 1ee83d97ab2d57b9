"""Gains as results and tables hold them; how they are measured is in tests/runtime/checks/test_turns.py."""

from benchmarks.gain import gain, in_words


def test_a_gain_as_json_and_in_words():
    found = gain([0.3] * 6, [0.2] * 6)
    assert set(found) == {"ratio", "low", "high"}
    assert in_words(found, 1) == "**1.5x** (1.5 to 1.5)"


def test_noise_is_no_gain():
    found = gain([0.2, 0.21, 0.19], [0.2, 0.19, 0.21])
    assert in_words(found).startswith("no difference within the noise (0.")
