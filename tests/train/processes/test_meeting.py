"""Processes that meet in a store of which dead ones left their keys, as torchrun's second life of a run finds it."""

import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.processes.meeting import meet

SOON = timedelta(seconds=20)


def life(store, world, order, *, patience=SOON):
    """Everyone's part of the store; they come in this ``order``, the next when the one before waits or is through."""
    parts, threads = {}, []

    def come(rank):
        parts[rank] = meet(PrefixStore("run", store), rank, world, patience)
        parts[rank].set(f"address/{rank}", f"{id(parts)}")

    for rank in order:
        threads.append(threading.Thread(target=come, args=(rank,)))
        threads[-1].start()
        threads[-1].join(0.1)
    for thread in threads:
        thread.join(30)
    assert parts.keys() == set(range(world))
    return parts


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_life_finds_nothing_of_the_lives_before(order):
    store = HashStore()
    life(store, 3, (0, 1, 2))
    for world in (3, 2):  # a machine may be gone
        parts = life(store, world, [rank for rank in order if rank < world])
        for part in parts.values():
            assert [part.get(f"address/{rank}") for rank in range(world)] == [
                str(id(parts)).encode()
            ] * world
            assert not part.check([f"address/{world}"])


def test_a_first_process_that_died_while_it_waited_is_not_waited_for():
    store = HashStore()
    with pytest.raises(E2EDeployError, match="1 of 2 processes did not come .* number 1 first"):
        meet(PrefixStore("run", store), 0, 2, timedelta(0))
    life(store, 2, (1, 0))


def test_one_alone_and_one_without_the_first():
    assert life(HashStore(), 1, (0,))
    with pytest.raises(E2EDeployError, match="process 1 was not answered by the first one"):
        meet(HashStore(), 1, 2, timedelta(seconds=0.1))
