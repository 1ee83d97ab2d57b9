"""Standard streams: closed by the starter, left by their reader, or on a disk that is full."""

import io
import os
import sys


def open_streams() -> None:
    """Let streams that the starter closed (``2>&-``) lead nowhere.

    Otherwise the next file that is opened takes their number, and what libraries print is written into it. Paths on
    stdout keep the bytes of names that are no UTF-8, so that whoever reads them finds the files.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def flush_streams() -> bool:
    """Whether all that was printed has arrived; what has not is dropped, or the interpreter would try it once more."""
    arrived = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            arrived = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return arrived
