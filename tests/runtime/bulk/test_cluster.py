"""What engines get of a machine or a cluster, by what is asked for."""

import tempfile

import pytest

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.runtime.bulk.cluster import MAX_ROOM, Share, _room, _share


@pytest.mark.parametrize(
    ("gpus", "cpus", "workers", "cores", "device", "share"),
    [
        (0, [18], None, None, "auto", Share(4, 4, 0)),
        (0, [4], None, None, "auto", Share(1, 2, 0)),
        (0, [2], None, None, "cpu", Share(1, 1, 0)),
        (0, [19], None, 3, "auto", Share(5, 3, 0)),
        (0, [8], 3, 2, "auto", Share(3, 2, 0)),
        (0, [10], None, 8, "auto", Share(1, 8, 0)),
        (2, [18], None, None, "auto", Share(2, 1, 1)),
        (4, [9, 9], 3, None, "cuda", Share(3, 1, 1)),
        (2, [18], None, None, "cpu", Share(4, 4, 0)),
        (0, [16, 16, 1], None, None, "auto", Share(6, 4, 0)),  # 14 of 16 CPUs hold three of four
    ],
)
def test_shares(gpus, cpus, workers, cores, device, share):
    assert _share(gpus, cpus, workers, cores, device) == share


def test_engines_leave_a_cpu_for_those_that_read_and_write():
    assert _share(0, [4, 4], 7, 1, "cpu") == Share(7, 1, 0)
    with pytest.raises(UsageError, match="8 with 1 CPUs each, take 8 of 8 CPUs"):
        _share(0, [4, 4], 8, 1, "cpu")
    with pytest.raises(UsageError, match="take 2 of 2 CPUs"):
        _share(2, [2], None, None, "auto")


def test_threads_are_of_engines_on_a_cpu():
    assert (Share(2, 3, 0).threads, Share(2, 1, 1).threads) == (3, None)


@pytest.mark.parametrize(
    ("gpus", "workers", "cores", "device", "error", "said"),
    [
        (0, None, None, "cuda", UnavailableError, '`device="cuda"`, and Ray finds no GPU'),
        (2, 3, None, "auto", UsageError, "`workers` is 3, and there are 2 GPUs"),
        (2, None, 4, "cuda", UsageError, "`cores` is of engines on a CPU"),
    ],
)
def test_what_does_not_go_together(gpus, workers, cores, device, error, said):
    with pytest.raises(error, match=said):
        _share(gpus, [8], workers, cores, device)


def test_a_temporary_folder_whose_name_leaves_no_room_for_sockets(tmp_path, monkeypatch):
    """Ray would say so as well, and not what to do."""
    base = tmp_path / ("n" * MAX_ROOM)
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    with pytest.raises(UnavailableError, match="set TMPDIR to a shorter one"), _room(is_here=True):
        pass
    assert not list(base.iterdir())
