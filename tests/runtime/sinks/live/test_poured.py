"""What is written into the path is in the file; and a pipe that another process got holds up nothing."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from e2e_deploy.runtime.sinks.live.poured import Poured

LARGE = np.random.default_rng(0).bytes(3_000_000)


def test_all_of_it_is_in_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    poured = Poured(tmp_path / "a")
    with poured.source.open("wb") as library:
        poured.opened()
        library.write(LARGE)
    poured.join()
    assert poured.error is None
    assert (tmp_path / "a").read_bytes() == LARGE


def test_the_writer_is_never_held_up_by_a_full_disk():
    poured = Poured(Path("/dev/full"))
    with poured.source.open("wb") as library:
        poured.opened()
        library.write(LARGE)
    poured.join()
    assert poured.error is not None
    assert poured.error.errno == errno.ENOSPC


def test_another_process_that_has_the_pipe(tmp_path):
    poured = Poured(tmp_path / "a")
    with poured.source.open("wb") as library:
        poured.opened()
        child = subprocess.Popen(["sleep", "60"], pass_fds=[library.fileno()])
        try:
            library.write(LARGE)
            library.close()
            poured.join()
        finally:
            child.kill()
            child.wait()
    assert (tmp_path / "a").read_bytes() == LARGE


def test_no_file(tmp_path):
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(FileNotFoundError):
        Poured(tmp_path / "none" / "a")
    assert len(os.listdir("/dev/fd")) == before
