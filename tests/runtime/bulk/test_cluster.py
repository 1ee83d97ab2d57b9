"""What engines get of a machine or a cluster, by what is asked for."""

import os
import tempfile
from types import SimpleNamespace

import pytest

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.runtime.bulk import cluster as cluster_module
from e2e_deploy.runtime.bulk.cluster import (
    HELPERS,
    MAX_ROOM,
    Asked,
    Node,
    Share,
    _room,
    _share,
    cluster,
)


@pytest.fixture
def ray(monkeypatch):
    """Stands for Ray, which begins what it is told to and finds ``gpus`` of them."""
    fake = SimpleNamespace(told={}, gpus=0)
    fake.is_initialized = lambda: False
    fake.init = lambda **given: fake.told.update(given)
    fake.shutdown = fake.told.clear
    fake.nodes = lambda: [
        {"Alive": True, "Resources": {"CPU": float(fake.told["num_cpus"]), "GPU": fake.gpus}},
        {"Alive": False, "Resources": {"CPU": 1000.0}},
    ]
    context = SimpleNamespace()
    data = SimpleNamespace(DataContext=SimpleNamespace(get_current=lambda: context))
    modules = {
        "ray": fake,
        "ray.data": data,
        "ray._private.ray_constants": SimpleNamespace(ENABLE_RAY_CLUSTER=True),
    }
    monkeypatch.setattr(cluster_module, "require", lambda name, extra: modules[name])
    return fake


@pytest.mark.parametrize("here", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("workers", [None, 1, 2, 4])
@pytest.mark.parametrize("cores", [None, 3])
def test_what_is_begun_here_has_room_for_what_was_asked(ray, monkeypatch, here, workers, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(here)))
    with cluster(None, Asked(workers, cores)) as (_, share):
        each = cores or min(4, here)
        assert share == Share(workers or max(1, here // each), each, 0)
        assert ray.told["num_cpus"] == max(here, share.workers * each) + HELPERS


def test_a_default_of_cores_is_no_wish_that_gpus_refuse(ray, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    ray.gpus = 2
    with cluster(None, Asked()) as (_, share):
        assert share == Share(2, 1, 1)
    with cluster(None, Asked(device="cpu")) as (_, share):
        assert share == Share(1, 4, 0)


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
        (2, [9, 9], 3, None, "cuda", Share(3, 1, 1)),
        (2, [18], None, None, "cpu", Share(4, 4, 0)),
        (0, [16, 16, 1], None, None, "auto", Share(6, 4, 0)),  # 14 of 16 CPUs hold three of four
    ],
)
def test_shares(gpus, cpus, workers, cores, device, share):
    """Of nodes with ``gpus`` each."""
    nodes = [Node(count, gpus) for count in cpus]
    assert _share(nodes, Asked(workers, cores, device)) == share


def test_engines_leave_a_cpu_for_those_that_read_and_write():
    assert _share([Node(4), Node(4)], Asked(7, 1, "cpu")) == Share(7, 1, 0)
    with pytest.raises(UsageError, match="8 with 1 CPUs each, take 8 of 8 CPUs"):
        _share([Node(4), Node(4)], Asked(8, 1, "cpu"))
    with pytest.raises(UsageError, match="take 2 of 2 CPUs"):
        _share([Node(2, 2)], Asked())


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        ([Node(4)] * 3, Asked(cores=8), "`cores` is 8, and the largest node has 4 CPUs"),
        ([Node(3), Node(4)], Asked(1, 5), "`cores` is 5, and the largest node has 4 CPUs"),
        (
            [Node(5)] * 2,
            Asked(3, 3),
            "`workers` is 3, with 3 CPUs each, .* the largest has 5 CPUs, have room for 2",
        ),
        ([Node(1, 3), Node(8)], Asked(), "`workers` is 3, .* a CPU beside a GPU for 1"),
    ],
)
def test_engines_that_fit_no_node_are_refused(nodes, asked, said):
    """Ray has the CPUs, and not together: it would wait without end."""
    with pytest.raises(UsageError, match=said):
        _share(nodes, asked)


def test_what_just_fits_the_nodes():
    assert _share([Node(5)] * 2, Asked(2, 3)) == Share(2, 3, 0)
    assert _share([Node(4)] * 3, Asked(2, 4)) == Share(2, 4, 0)
    assert _share([Node(1, 3), Node(8)], Asked(1)) == Share(1, 1, 1)


def test_a_cluster_without_nodes_is_a_sentence():
    with pytest.raises(UnavailableError, match="has no node that is alive"):
        _share([], Asked())


def test_gpus_are_for_backends_that_reach_them():
    nodes = [Node(18, 2)]
    for backend in ("auto", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx", "inductor"):
        assert _share(nodes, Asked(backend=backend)) == Share(2, 1, 1), backend
    assert _share(nodes, Asked(backend="openvino")) == Share(4, 4, 0)
    assert _share(nodes, Asked(cores=8, backend="openvino")) == Share(2, 8, 0)
    # Named, it is no wish to pass over: the engine says that it has none.
    assert _share(nodes, Asked(device="cuda", backend="openvino")).device == "cuda"


def test_engines_run_where_ray_counts_them():
    assert (Share(2, 3, 0).device, Share(2, 1, 1).device) == ("cpu", "cuda")


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
        _share([Node(8, gpus)], Asked(workers, cores, device))


def test_a_temporary_folder_whose_name_leaves_no_room_for_sockets(tmp_path, monkeypatch):
    """Ray would say so as well, and not what to do."""
    base = tmp_path / ("n" * MAX_ROOM)
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    with pytest.raises(UnavailableError, match="set TMPDIR to a shorter one"), _room(is_here=True):
        pass
    assert not list(base.iterdir())
