"""What a bulk run began, and the memory that it takes, from outside: Linux's /proc."""

from contextlib import suppress
from pathlib import Path

MIB = 1024  # of what /proc tells


def below(pid):
    """The processes that a process began, and those that they began: their numbers and names."""
    found, look = {}, [pid]
    while look:
        parent = look.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # it has just ended
                for child in task.read_text().split():
                    name = Path(f"/proc/{child}/cmdline").read_text()
                    found[int(child)] = name.replace("\0", " ")
                    look.append(int(child))
    return found


def memory(pid):
    """MiB of a process: its own, without files and shared pages; and with its part of those that are shared."""
    told = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            told[name] = int(rest.split()[0]) / MIB
    return told.get("Pss_Anon", 0.0), told.get("Pss", 0.0)
