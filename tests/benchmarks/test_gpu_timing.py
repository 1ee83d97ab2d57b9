"""Contenders in turn: who is called when, with what, and what becomes of one that fails."""

import pytest

from benchmarks.gpu import timing


def test_turns_go_forth_and_back_on_rotating_inputs():
    calls = []
    contenders = {
        name: lambda value, name=name: calls.append((name, value)) for name in ("a", "b", "c")
    }
    times, errors = timing.in_turns(timing.Device("cpu"), contenders, [10, 20], rounds=3)
    assert calls == [
        *(("a", 10), ("b", 10), ("c", 10)),
        *(("c", 20), ("b", 20), ("a", 20)),
        *(("a", 10), ("b", 10), ("c", 10)),
    ]
    assert errors == {}
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_one_that_fails_has_no_times_and_stops_nobody():
    tries = []

    def broken(value):
        tries.append(value)
        if len(tries) == 2:
            raise RuntimeError("out\nof   memory")

    contenders = {"broken": broken, "good": lambda value: None}
    times, errors = timing.in_turns(timing.Device("cpu"), contenders, [1], rounds=4)
    assert errors == {"broken": "RuntimeError: out of memory"}
    assert list(times) == ["good"]
    assert len(times["good"]) == 4
    assert len(tries) == 2


def test_noise_is_what_the_halves_differ_by():
    found = timing.summary([10.0, 11.0, 10.0, 11.0, 10.0])
    assert found["p50_ms"] == pytest.approx(10.0)
    assert found["noise_percent"] == pytest.approx(10.0)
    assert "noise_percent" not in timing.summary([10.0])


def test_a_call_is_timed_from_start_to_end():
    device = timing.Device("cpu")
    clock = iter([1.0, 1.25])
    device.mark = lambda: next(clock)
    assert device.time_ms(lambda value: value, 0) == pytest.approx(250.0)
