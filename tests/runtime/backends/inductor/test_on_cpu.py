"""A real package on this CPU, as users run it."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import e2e_deploy as e2e
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.fake_plans import frames
from tests.small_graphs import drop_unread

WITHOUT = """
import sys
for name in ("diffusers", "transformers", "onnx", "onnxruntime", "torch._inductor"):
    sys.modules[name] = None
import numpy as np
import e2e_deploy as e2e
with e2e.load(sys.argv[1], backend="inductor", device="cpu") as engine:
    depth = engine(np.full((24, 32, 3), 51, np.uint8))
print(float(depth.mean()), engine.describe())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, compiled):
    root = drop_unread(write_plain_bundle(tmp_path_factory.mktemp("b") / "bundle"))
    compiled(root)
    return root


@pytest.fixture
def engine(bundle):
    with e2e.load(bundle, backend="inductor", device="cpu") as engine:
        yield engine


def test_results_are_right_and_their_own(engine, rng):
    pictures = frames(rng)
    results = [engine(picture) for picture in pictures]
    for picture, result in zip(pictures, results, strict=True):
        assert (result.dtype, result.shape) == (np.float32, HW)
        np.testing.assert_allclose(result, plain_depth(picture), atol=1e-6)
    assert engine(pictures[0][None]).shape == (1, *HW)


def test_it_says_what_it_is(engine):
    said = engine.describe()
    assert said.startswith(f"inductor (CPU, {torch.get_num_threads()} threads, ")
    assert said.endswith("; named by you)")
    assert engine.backend.entry == engine.manifest.plans[0]


def test_a_result_is_written_where_it_is_wanted(engine, rng):
    picture, out = frames(rng)[0], np.empty(HW, np.float32)
    assert engine(picture, out=out) is out
    np.testing.assert_array_equal(out, engine(picture))


def test_the_frame_is_read_where_it_lies_and_the_result_given_as_it_was_made(engine, rng):
    seen = []

    class Spy:
        def __init__(self, package):
            self.package = package

        def run(self, tensors):
            made = self.package.run(tensors)
            seen.append((tensors[0].data_ptr(), made[0].data_ptr()))
            return made

    backend = engine.backend
    backend._package = Spy(backend._package)
    picture = frames(rng)[0]
    picture.setflags(write=False)
    result = engine(picture)
    assert seen == [(picture.ctypes.data, result.ctypes.data)]


def test_torchs_tensors_come_back_as_such(engine, rng):
    picture = frames(rng)[0]
    result = engine(torch.from_numpy(picture))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result, plain_depth(picture), atol=1e-6)


def test_eight_threads_get_their_own_results(engine):
    def work(index):
        rng = np.random.default_rng(index)
        for size in (HW, (40, 50)):
            picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            result = engine.predict(picture)
            assert result.shape == size
            if size == HW:
                np.testing.assert_allclose(result, plain_depth(picture), atol=1e-6)

    errors = []

    def kept(index):
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=kept, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_submitting_and_closing(bundle, rng):
    picture = frames(rng)[0]
    engine = e2e.load(bundle, backend="inductor", device="cpu")
    slot = engine.submit(picture)
    with pytest.raises(e2e.UsageError, match="1 of 1 slots of this engine are taken"):
        engine.submit(picture)
    np.testing.assert_allclose(engine.collect(slot), plain_depth(picture), atol=1e-6)
    engine.close()
    with pytest.raises(e2e.UsageError, match="is closed; load it again"):
        engine(picture)


def test_threads_are_the_processs(bundle):
    before = torch.get_num_threads()
    try:
        with e2e.load(bundle, backend="inductor", device="cpu", threads=1) as engine:
            assert torch.get_num_threads() == 1
            assert engine.backend.device.startswith("CPU, 1 threads, ")
    finally:
        torch.set_num_threads(before)


def test_a_frame_of_another_size_never_reaches_the_code(engine):
    """Compiled code checks no sizes: it would read what lies behind the frame."""
    with pytest.raises(e2e.UsageError, match="the frame is 12x32"):
        engine(np.zeros((12, 32, 3), np.uint8))
    with pytest.raises(AssertionError, match="checks no sizes"):
        engine.backend(np.zeros((12, 32, 3), np.uint8))


def test_it_runs_where_nothing_but_torch_is(bundle):
    """No diffusers, no compiler, none of what torch compiles with."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(bundle)],
        capture_output=True,
        text=True,
        env={"PATH": "/nonexistent", "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    mean, said = done.stdout.split(" ", 1)
    assert float(mean) == pytest.approx(0.2, abs=1e-6)
    assert said.startswith("inductor (CPU, ")
