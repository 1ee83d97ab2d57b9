"""The numbers that the node says of itself."""

import pytest
from e2e_deploy_ros2 import status
from e2e_deploy_ros2.status import RECENT, Rates


@pytest.fixture
def now_s(monkeypatch):
    """A clock that stands until a test moves it."""
    now_s = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now_s[0])
    return now_s


def test_the_rate_is_that_since_it_was_last_asked(now_s):
    rates = Rates()
    for count, seconds, fps in ((30, 2.0, "15.0"), (10, 1.0, "10.0"), (0, 5.0, "0.0")):
        for _ in range(count):
            rates.published(0.01, None)
        now_s[0] += seconds
        assert dict(rates.values())["fps"] == fps
    assert dict(rates.values())["published"] == "40"
    assert rates.silent_s == 6.0


def test_percentiles_are_of_recent_results(now_s):
    rates = Rates()
    assert [name for name, _ in rates.values()] == ["fps", "published"]
    rates.published(60.0, 60.0)  # long ago
    for index in range(RECENT):
        rates.published(0.010 + 0.0001 * index, 0.2)
    told = dict(rates.values())
    assert (told["latency p50 (ms)"], told["latency p99 (ms)"]) == ("24.9", "39.6")
    assert told["age by the stamp p50 (ms)"] == "200.0"
