import io
import time
from types import SimpleNamespace

import pytest

from e2e_deploy import progress
from e2e_deploy.progress import Count, Line, Stages, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """What is seen: of each line what follows the last clearing."""
        return [line.rpartition("\r\x1b[K")[2] for line in self.getvalue().split("\n")]


@pytest.fixture
def terminal(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=shown))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    return shown


@pytest.fixture
def pipe(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=shown))
    return shown


def test_a_terminal_shows_the_newest_words_and_keeps_what_is_said(terminal):
    with Line() as line:
        line.show("one")
        line.say("a note")
        line.show("two" * 100)
        assert terminal.screen() == ["a note", ("two" * 100)[:59]]
    assert terminal.screen() == ["a note", ""]


def test_a_pipe_gets_what_is_said_alone(pipe):
    with Line() as line:
        line.show("one")
        line.say("a note")
    assert pipe.getvalue() == "a note\n"


def test_a_dumb_terminal_is_a_pipe(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Stages()("work") as say:
        say("on")
    assert "\x1b" not in terminal.getvalue()


def test_a_count_in_a_pipe_is_a_line_every_tenth(pipe):
    with Count("reading") as count:
        for done in range(101):
            count(done, 100)
    assert pipe.getvalue().splitlines() == [f"reading: {n}/100" for n in range(0, 101, 10)]


def test_a_count_on_a_terminal_has_a_bar_and_the_time_left(terminal):
    with Count("reading", first=40) as count:
        count(40, 80, "loss 1")
        assert terminal.screen()[-1] == "reading 40/80  ############............  loss 1"
        time.sleep(0.01)
        count(60, 80)
        assert terminal.screen()[-1] == "reading 60/80  ##################......  0 s left"


def test_a_stage_tells_its_seconds_only_when_it_ends_well(pipe):
    stages = Stages()
    with stages("good") as say:
        say("half")
    with pytest.raises(ValueError, match="bad"), stages("bad"):
        raise ValueError("bad")
    assert [stage.name for stage in stages.done] == ["good"]
    assert pipe.getvalue().split() == ["good", "0.0", "s"]
    with Stages(quiet=True)("quiet") as say:
        say("half")
    assert "quiet" not in pipe.getvalue()


def test_a_line_that_nobody_changes_tells_the_time(terminal, monkeypatch):
    monkeypatch.setattr(progress, "TICK_S", 0.01)
    calls = []
    with Line() as line:
        line.show(lambda: f"{len(calls.append(1) or calls)}")
        deadline = time.monotonic() + 10
        while len(calls) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(calls) >= 5


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59, "59 s"), (61, "1 min"), (3900, "1 h 05 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
