import threading

from e2e_deploy.runtime.lanes import Lane


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def test_nothing_is_lost_and_the_writer_waits():
    lane, most, got = Lane(2, newest=False), [], []

    def write():
        for number in range(500):
            assert lane.put(number)
            most.append(len(lane._items))
        lane.close()

    writer = in_thread(write)
    while (item := lane.get()) is not None:
        got.append(item)
    writer.join(5)
    assert got == list(range(500))
    assert max(most) <= 2
    assert lane.dropped == 0


def test_the_newest_push_out_the_oldest():
    lane = Lane(2, newest=True)
    for number in range(1, 11):
        assert lane.put(number)
    assert (lane.get(), lane.get(), lane.dropped) == (9, 10, 8)


def test_closing_wakes_a_waiting_writer_and_a_waiting_reader():
    full, empty, answers = Lane(1, newest=False), Lane(1, newest=False), []
    full.put(1)
    threads = [
        in_thread(lambda: answers.append(full.put(2))),
        in_thread(lambda: answers.append(empty.get())),
    ]
    full.close()
    empty.close()
    for thread in threads:
        thread.join(5)
    assert sorted(answers, key=str) == [False, None]
    assert full.get() == 1  # what was inside is still read
    assert full.get() is None
    assert full.closed


def test_discarding_empties_it_also_after_it_was_closed():
    lane = Lane(3, newest=False)
    lane.put(1)
    lane.close()
    lane.close(discard=True)
    assert lane.get() is None
    assert not lane.put(2)
