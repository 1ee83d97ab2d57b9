import errno
import signal

import pytest

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.system.child import Child

TALKS = """
import os, sys
from e2e_deploy.system.child import Parent
from e2e_deploy.errors import DataError
parent = Parent()
print("native noise")
for request in parent.requests():
    with parent.told_of_errors():
        match request["what"]:
            case "echo": parent.tell(said=sys.argv[1:] + [request["text"]])
            case "data": raise DataError("no picture")
            case "disk": open("/dev/full", "w").write("x" * 9999)
            case "file": open("/nowhere/it")
            case "signals":
                for number in request["numbers"]: os.kill(os.getpid(), number)
                parent.tell(lives=True)
            case "abort": print("cause", file=sys.stderr, flush=True); os.abort()
"""


@pytest.fixture
def child(child_runs):
    child_runs(TALKS)
    with Child("e2e_deploy.any", "one", "two") as child:
        yield child


def answer(child, **request):
    child.tell(**request)
    return next(child.events())


def test_it_answers_until_it_is_asked_no_more(child):
    for text in ("caf\u00e9", "\ud800", "line\nline"):
        assert answer(child, what="echo", text=text) == {"said": ["one", "two", text]}


def test_errors_are_raised_as_what_they_were_and_it_goes_on(child):
    with pytest.raises(DataError, match="no picture"):
        answer(child, what="data")
    with pytest.raises(OSError, match="No space left") as full:
        answer(child, what="disk")
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as missing:
        answer(child, what="file")
    assert missing.value.filename == "/nowhere/it"
    assert answer(child, what="echo", text="")


def test_an_error_of_a_kind_that_is_not_known_here(child_runs):
    child_runs("""print('{"error": "Strange", "text": "this"}')""")
    with Child("e2e_deploy.any") as child, pytest.raises(E2EDeployError, match="this"):
        next(child.events())


def test_what_a_terminal_sends_to_all_is_the_parents_to_decide(child):
    numbers = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM]
    assert answer(child, what="signals", numbers=numbers) == {"lives": True}


def test_a_crash_is_told_with_its_signal_and_last_words(child):
    child.tell(what="abort")
    assert list(child.events()) == []
    crash = child.crash()
    assert (crash.how, crash.was_killed) == ("SIGABRT", False)
    assert crash.said == ("native noise", "cause")
    child.tell(what="echo", text="to nobody")
    assert list(child.events()) == []


def test_one_that_was_killed(child):
    child.kill()
    assert list(child.events()) == []
    assert (child.crash().how, child.crash().was_killed) == ("SIGKILL", True)
