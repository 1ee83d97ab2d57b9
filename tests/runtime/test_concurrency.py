"""One engine and several threads, an event loop, a process that has signal handlers of its own."""

import asyncio
import signal
import threading
import time

import numpy as np
import pytest
from onnx import helper

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.backends.backend import OneAtATime
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.system import interrupts
from e2e_deploy.system.interrupts import WorkThread, stop_computation
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.backends.test_backends import write_graph


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(write_plain_bundle(tmp_path_factory.mktemp("b") / "bundle"))


def grey(value):
    return np.full((*HW, 3), value, np.uint8)


class Slow(OneAtATime):
    """A backend that says what it is given, and waits to be told to go on."""

    name, device = "onnxruntime", "double"

    def __init__(self, *, waits=False):
        self.seen, self.inside, self.most, self.closed = [], 0, 0, 0
        self.began, self.go_on = threading.Event(), threading.Event()
        if not waits:
            self.go_on.set()

    def __call__(self, frame, out=None):
        self.inside += 1
        self.most = max(self.most, self.inside)
        value = int(frame.flat[0])
        self.seen.append(value)
        self.began.set()
        time.sleep(0.001)  # here another thread could come in
        assert self.go_on.wait(60)
        assert not self.closed
        self.inside -= 1
        shape = frame.shape[:-1]
        return np.full(shape, value / 255, np.float32)

    def close(self):
        assert not self.inside
        self.closed += 1


def with_double(bundle, **facts):
    double = Slow(**facts)
    return double, Engine(bundle, bundle.manifest.graphs[0], double, "a double")


def in_threads(count, work):
    errors = []

    def kept(index):
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=kept, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_eight_threads_get_their_own_results(bundle):
    with e2e.load(bundle, device="cpu") as engine:

        def work(index):
            rng = np.random.default_rng(index)
            for size in (HW, (40, 50), HW):
                picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                result = engine.predict(picture)
                assert result.shape == size
                if size == HW:
                    np.testing.assert_allclose(result, plain_depth(picture), atol=1e-6)

        in_threads(8, work)


def test_calls_do_not_interleave(bundle):
    double, engine = with_double(bundle)

    def work(index):
        for _ in range(5):
            assert engine(grey(index))[0, 0] == np.float32(index / 255)
            assert engine.predict(grey(index)[:-1])[0, 0] == np.float32(index / 255)

    in_threads(8, work)
    assert double.most == 1
    assert len(double.seen) == 80


def test_other_threads_go_on_while_it_computes(tmp_path, monkeypatch):
    """It is stopped from another thread, in Python, long before it would have ended by itself."""
    monkeypatch.setattr(interrupts, "_left_behind", [])
    side = HW[0] * HW[1]
    nodes = [
        helper.make_node("Reshape", ["rgb", "column"], ["c"]),
        helper.make_node("Transpose", ["c"], ["r"], perm=[1, 0]),
        helper.make_node("MatMul", ["c", "r"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(1500)),
        helper.make_node("Identity", ["m1500"], ["extra"]),
    ]
    root = write_graph(tmp_path / "b", *nodes, column=np.array([side, -1]))
    ended = []
    with e2e.load(root, device="cpu") as engine:

        def compute():
            try:
                ended.append(engine(grey(1)))
            except KeyboardInterrupt:
                ended.append("stopped")

        thread = WorkThread(compute, "test")
        thread.start()
        while thread.works and thread.ident not in interrupts._stops:
            time.sleep(0.001)
        counted = sum(1 for _ in range(100_000))
        assert thread.works
        assert counted == 100_000
        assert stop_computation(thread)
        assert ended == ["stopped"]


def test_a_full_engine_and_an_empty_slot(bundle):
    with e2e.load(bundle, device="cpu") as engine:
        with pytest.raises(
            e2e.UsageError, match="nothing was submitted into slot 0; taken slots: none"
        ):
            engine.collect(0)
        slot = engine.submit(grey(7))
        with pytest.raises(
            e2e.UsageError, match="1 of 1 slots of this engine are taken: collect one"
        ):
            engine.submit(grey(8))
        with pytest.raises(
            e2e.UsageError, match="nothing was submitted into slot 5; taken slots: 0"
        ):
            engine.collect(5)
        assert engine(grey(9))[0, 0] == np.float32(9 / 255)  # a call takes no slot
        assert engine.collect(slot)[0, 0] == np.float32(7 / 255)
        with pytest.raises(e2e.UsageError, match="nothing was submitted"):
            engine.collect(slot)


def test_a_closed_engine_says_so(bundle):
    engine = e2e.load(bundle, device="cpu")
    assert repr(engine).endswith(
        "frames of 24x32, onnxruntime on " + engine.backend.device + ", open>"
    )
    engine.submit(grey(0))
    engine.close()
    engine.close()
    assert engine.closed
    assert repr(engine).startswith("<Engine bundle: depth of frames of 24x32, onnxruntime")
    assert repr(engine).endswith(", closed>")
    uses = (
        lambda: engine(grey(0)),
        lambda: engine.predict(grey(0)),
        lambda: engine.submit(grey(0)),
        lambda: engine.collect(0),
        lambda: asyncio.run(engine.predict_async(grey(0))),
    )
    for use in uses:
        with pytest.raises(
            e2e.UsageError, match="this engine of .*bundle is closed; load it again"
        ):
            use()


def test_closing_waits_for_what_computes(bundle):
    double, engine = with_double(bundle, waits=True)
    results, refused = [], []

    def second():
        try:
            engine(grey(2))
        except e2e.UsageError as error:
            refused.append(str(error))

    first = threading.Thread(target=lambda: results.append(engine(grey(1))))
    first.start()
    assert double.began.wait(60)
    waiting, closing = threading.Thread(target=second), threading.Thread(target=engine.close)
    waiting.start()
    closing.start()
    while not engine.closed:
        time.sleep(0.001)
    assert double.closed == 0
    double.go_on.set()
    for thread in (first, waiting, closing):
        thread.join()
    assert results[0][0, 0] == np.float32(1 / 255)
    assert double.closed == 1
    assert double.seen == [1]
    assert "is closed" in refused[0]


def test_closing_does_not_wait_for_what_never_ends(bundle, monkeypatch):
    """Else Ctrl-C would wait for it after all."""
    double, engine = with_double(bundle, waits=True)
    thread = WorkThread(lambda: engine(grey(1)), "test")
    thread.start()
    assert double.began.wait(60)
    monkeypatch.setattr(interrupts, "_left_behind", [thread])
    engine.close()
    assert double.closed == 0
    double.go_on.set()
    assert thread.wait(60)


def test_many_awaits_are_served_one_at_a_time_in_order(bundle):
    double, engine = with_double(bundle)

    async def main():
        return await asyncio.gather(*(engine.predict_async(grey(i)) for i in range(20)))

    results = asyncio.run(main())
    assert [round(float(r[0, 0]) * 255) for r in results] == list(range(20))
    assert double.seen == list(range(20))
    assert double.most == 1
    engine.close()


def test_a_cancelled_await_leaves_the_engine_usable(bundle):
    double, engine = with_double(bundle, waits=True)

    async def main():
        tasks = [asyncio.create_task(engine.predict_async(grey(i))) for i in range(4)]
        while not double.began.is_set():
            await asyncio.sleep(0.001)
        tasks[0].cancel()  # computes already
        tasks[2].cancel()  # waits for its turn
        double.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [
        True,
        False,
        True,
        False,
    ]
    assert double.seen == [0, 1, 3]
    assert engine(grey(9))[0, 0] == np.float32(9 / 255)
    engine.close()


def test_what_waits_when_the_engine_is_closed(bundle):
    double, engine = with_double(bundle, waits=True)

    async def main():
        tasks = [asyncio.create_task(engine.predict_async(grey(i))) for i in range(3)]
        while not double.began.is_set():
            await asyncio.sleep(0.001)
        closing = threading.Thread(target=engine.close)
        closing.start()
        while not engine.closed:
            await asyncio.sleep(0.001)
        double.go_on.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(closing.join)
        return found

    first, *others = asyncio.run(main())
    assert isinstance(first, np.ndarray)
    assert all(isinstance(each, e2e.UsageError) for each in others)
    assert not [t for t in threading.enumerate() if t.name.startswith("e2e-deploy engine")]


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_it_prints_nothing_and_leaves_signals_alone(bundle, capfd, in_main_thread):
    def handlers():
        return {number: signal.getsignal(number) for number in signal.valid_signals()}

    before, during = handlers(), []

    def work(_):
        with e2e.load(bundle, device="cpu") as engine:
            engine(grey(1))
            asyncio.run(engine.predict_async(grey(1)))
            engine.collect(engine.submit(grey(1)))
            during.append(handlers())

    if in_main_thread:
        work(0)
    else:
        in_threads(1, work)
    assert during == [before]
    assert handlers() == before
    assert capfd.readouterr() == ("", "")
