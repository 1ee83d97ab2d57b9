"""The capsules that arrays are handed over in, tried on the host, where PyTorch and NumPy are the other side."""

import gc

import numpy as np
import pytest

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.backends import dlpack
from e2e_deploy.runtime.backends.dlpack import RawArray, read_dlpack

torch = pytest.importorskip("torch")


class Plain:
    """Hands over as libraries did before DLPack 1.0."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, *, stream=None):
        return self.array.__dlpack__()


def raw_of(array):
    return RawArray(array.ctypes.data, array.shape, str(array.dtype), (1, 0), owner=array)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
@pytest.mark.parametrize("take", [torch.from_dlpack, np.from_dlpack])
def test_what_is_given_away_is_the_same_memory_and_kept_alive(dtype, take):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    address, wanted = array.ctypes.data, array.copy()
    taken = take(raw_of(array))
    del array
    gc.collect()
    assert (taken.data_ptr() if take is torch.from_dlpack else taken.ctypes.data) == address
    np.testing.assert_array_equal(taken, wanted)
    assert len(dlpack._exported) == 1
    del taken
    gc.collect()
    assert dlpack._exported == {}


def test_a_capsule_that_nobody_takes_goes():
    capsule = raw_of(np.zeros(3, np.float32)).__dlpack__()
    assert len(dlpack._exported) == 1
    del capsule
    assert dlpack._exported == {}


def test_nothing_is_copied_or_moved_for_a_taker():
    raw = raw_of(np.zeros(3, np.float32))
    for wish in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match="without a copy"):
            raw.__dlpack__(**wish)


@pytest.mark.parametrize("hand_over", [lambda tensor: tensor, Plain])
def test_what_is_taken_is_the_same_memory_and_kept_alive(hand_over):
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)[1:]
    raw = read_dlpack(hand_over(tensor), "it")
    assert raw == RawArray(tensor.data_ptr(), (1, 3, 4), "float32", (1, 0))
    view = raw.host()
    del tensor, raw
    gc.collect()
    view += 1
    np.testing.assert_array_equal(view.ravel(), np.arange(13, 25))


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.zeros(2, dtype=torch.bool), "bool"),
        (torch.zeros(2, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
    ],
)
def test_types_that_no_engine_takes_have_names(tensor, dtype):
    assert read_dlpack(tensor, "it").dtype == dtype


def test_what_cannot_be_taken():
    for array, why in (
        (torch.zeros(2, 4)[:, ::2], "it is not C-contiguous"),
        (torch.zeros(3, requires_grad=True), "it cannot be taken over through DLPack: "),
        (Plain(None), "it cannot be taken over through DLPack: "),
    ):
        with pytest.raises(UsageError, match=why):
            read_dlpack(array, "it")
    # A side of one has no step that matters.
    assert read_dlpack(torch.zeros(4, 1).T, "it").shape == (1, 4)


def test_what_may_not_be_written_to_is_told():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    assert read_dlpack(array, "it").read_only
    assert not read_dlpack(np.zeros(3, np.float32), "it").read_only
