"""What engines get of a machine or a cluster, by what is asked for."""

import pytest

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.runtime.bulk.cluster import Share, _share


@pytest.mark.parametrize(
    ("gpus", "cpus", "workers", "cores", "device", "share"),
    [
        (0, 16, None, None, "auto", Share(4, 4, 0)),
        (0, 2, None, None, "auto", Share(1, 2, 0)),
        (0, 0, None, None, "cpu", Share(1, 1, 0)),
        (0, 17, None, 3, "auto", Share(5, 3, 0)),
        (0, 4, 3, 2, "auto", Share(3, 2, 0)),
        (0, 1, None, 8, "auto", Share(1, 8, 0)),
        (2, 16, None, None, "auto", Share(2, 1, 1)),
        (4, 16, 3, None, "cuda", Share(3, 1, 1)),
        (2, 16, None, None, "cpu", Share(4, 4, 0)),
    ],
)
def test_shares(gpus, cpus, workers, cores, device, share):
    assert _share(gpus, cpus, workers, cores, device) == share


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
        _share(gpus, 8, workers, cores, device)
