import os
import signal
import subprocess
import sys
import time

import pytest

from e2e_deploy.cli import signals

CHILD = """
import os, signal, sys, time
from e2e_deploy import cli

number, ignored, fork = int(sys.argv[1]), sys.argv[2] == "ignored", sys.argv[2] == "fork"
signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)

def verb(*arguments, **names):
    if fork and os.fork() == 0:
        os.kill(os.getpid(), number)
        time.sleep(10)
    elif fork:
        print("child", os.waitstatus_to_exitcode(os.wait()[1]))
        return
    try:
        os.kill(os.getpid(), number)
        time.sleep(10 if not ignored else 0)
    finally:
        os.kill(os.getpid(), number)  # while it cleans up
        print("clean")

cli.group.main = verb
cli.main([])
"""


def child(number, how=""):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(number.value), how],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
class TestEnding:
    def test_it_cleans_up_as_ctrl_c_does_even_if_it_comes_twice(self, number):
        assert child(number) == (130, "clean\n", "interrupted\n")

    def test_a_later_one_counts_again(self, number, monkeypatch):
        """The first may be lost: what is raised inside a callback of the garbage collector goes nowhere."""
        monkeypatch.setattr(signals, "ONE_ENDING_S", 0.05)
        before = signal.signal(number, signal.SIG_DFL)
        try:
            with signals.ending_like_ctrl_c():
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), number)
                    time.sleep(1)
                os.kill(os.getpid(), number)  # at once: the same
                time.sleep(0.1)
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), number)
                    time.sleep(1)
        finally:
            signal.signal(number, before)

    def test_what_the_starter_ignores_stays_ignored(self, number):
        assert child(number, "ignored") == (0, "clean\n", "")

    def test_a_forked_worker_ends_at_once(self, number):
        assert child(number, "fork") == (0, f"child {-number}\n", "")
