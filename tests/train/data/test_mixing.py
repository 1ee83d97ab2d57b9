from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e_deploy.train.data.mixing import MixingPlan


def plan(**changes):
    numbers = {"lengths": (50, 7), "weights": (9, 1), "batch_size": 2, "per_step": 4, "seed": 5}
    return MixingPlan(**(numbers | changes))


def steps(mixing, first, last):
    return [
        mixing.micro_batch_at(step, slot)
        for step in range(first, last)
        for slot in range(mixing.accumulation)
    ]


def test_the_ratio_is_exact_in_every_block():
    batches = steps(plan(), 0, 25)
    for start in range(0, 100, 10):
        assert Counter(b.dataset for b in batches[start : start + 10]) == {0: 9, 1: 1}
    positions = {
        [b.dataset for b in batches[start : start + 10]].index(1) for start in range(0, 100, 10)
    }
    assert len(positions) > 3


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_epoch_shows_every_image_once(lengths, batch_size, seed, data):
    weights = tuple(data.draw(st.integers(1, 4)) for _ in lengths)
    mixing = plan(lengths=tuple(lengths), weights=weights, batch_size=batch_size, seed=seed)
    batches = steps(mixing, 0, 40)
    for dataset, length in enumerate(lengths):
        shown = [i for b in batches if b.dataset == dataset for i in b.indices]
        for start in range(0, len(shown) - length + 1, length):
            assert sorted(shown[start : start + length]) == list(range(length))


def test_epochs_differ_and_seeds_differ():
    one = plan(lengths=(40,), weights=(1,))
    first, second = steps(one, 0, 5), steps(one, 5, 10)
    assert sorted(i for b in first for i in b.indices) == list(range(40))
    assert first != second
    assert steps(one, 0, 5) != steps(plan(lengths=(40,), weights=(1,), seed=6), 0, 5)


@pytest.mark.parametrize(("world", "per_step"), [(2, 4), (3, 6), (3, 8), (5, 7), (4, 4)])
def test_ranks_together_see_what_one_process_sees(world, per_step):
    alone = plan(per_step=per_step)
    ranks = [plan(per_step=per_step, world=world, rank=rank) for rank in range(world)]
    for step in range(30):
        expected = [alone.micro_batch_at(step, slot) for slot in range(per_step)]
        for number, rank in enumerate(ranks):
            mine = [rank.micro_batch_at(step, slot) for slot in range(rank.accumulation)]
            assert mine == expected[number::world]


def test_a_fresh_plan_resumes_exactly_at_any_step():
    expected = steps(plan(), 0, 60)
    for step in (59, 3, 31):
        assert steps(plan(), step, step + 1) == expected[step * 4 : step * 4 + 4]


def test_the_order_of_asking_does_not_matter():
    mixing = plan()
    expected = [mixing.micro_batch_at(step, 1) for step in range(40)]
    backwards = [mixing.micro_batch_at(step, 1) for step in reversed(range(40))]
    assert backwards[::-1] == expected


def test_half_of_the_images_are_mirrored_anew_each_epoch():
    batches = steps(plan(lengths=(100,), weights=(1,), batch_size=10), 0, 50)
    flips = [flip for b in batches for flip in b.flips]
    assert sum(flips) / len(flips) == pytest.approx(0.5, abs=0.04)
    assert flips[:100] != flips[100:200]
    by_image = Counter((i, f) for b in batches for i, f in zip(b.indices, b.flips, strict=True))
    assert max(by_image.values()) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (5,)}, "must pair up"),
        ({"lengths": (5, 0)}, "must be 1 or more"),
        ({"weights": (1, 0)}, "must be 1 or more"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"world": 5}, "per_step 4 at least 5"),
        ({"world": 2, "rank": 2}, "rank 2"),
    ],
)
def test_numbers_that_make_no_plan(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**change)


def test_a_slot_outside_the_step_is_an_error():
    with pytest.raises(ValueError, match=r"slot 4: expected slot in 0\.\.3"):
        plan().micro_batch_at(0, 4)
