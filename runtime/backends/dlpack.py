"""Arrays in GPU memory that other libraries made or will use, through DLPack: no copy, and no library is imported.

The layout is that of dlpack.h, https://dmlc.github.io/dlpack/latest/c_api.html: DLManagedTensor, and since 1.0
DLManagedTensorVersioned, which says whether an array may be written to.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from e2e_deploy.errors import UsageError

CPU, CUDA, CUDA_HOST = 1, 2, 3
"""Kinds of device, as DLPack counts them."""
DEFAULT_STREAM = 1
"""DLPack's name of CUDA's default stream."""

_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_READ_ONLY = 1
_PLAIN, _VERSIONED = b"dltensor", b"dltensor_versioned"


class DLPackArray(Protocol):
    """An array of NumPy, PyTorch, CuPy, JAX or any other library that speaks DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("manager", ctypes.c_void_p),
        ("deleter", _Deleter),
    )


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _python(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's own C API; prototypes set on ctypes.pythonapi would be everybody's."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


# A capsule that is being destroyed is an address: as an object it would be kept alive and destroyed again.
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = _python(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor
)
_pointer_of = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_is_capsule = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_address_is_capsule = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer_of_address = _python(
    "PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p
)

_exported: dict[int, tuple[Any, ...]] = {}
"""What an array that we gave away needs, by the address of its record, until its taker is done with it."""


def _forget_record(address: int) -> None:
    _exported.pop(address, None)


def _destroy_capsule(capsule: int) -> None:
    """A capsule goes; one that nobody took still has its name, and its record goes too."""
    if _address_is_capsule(capsule, _PLAIN):
        _exported.pop(_pointer_of_address(capsule, _PLAIN), None)


_forget, _destroy = _Deleter(_forget_record), _Destructor(_destroy_capsule)


@dataclass(frozen=True)
class RawArray:
    """Memory of a C-contiguous array, valid as long as this object lives.

    Attributes:
        address: of its first byte.
        shape: of the array.
        dtype: as NumPy names it, for example uint8.
        device: (kind, index), as DLPack counts them.
        read_only: its maker says that nobody may write to it.
        owner: what keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: tuple[int, int]
    read_only: bool = False
    owner: object = field(default=None, repr=False, compare=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for another library's from_dlpack; what is in the memory is finished in every stream."""
        if copy or dl_device not in (None, self.device):
            raise BufferError("this array is handed over where it lies, without a copy")
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        kind = np.dtype(self.dtype)
        code = {"i": 0, "u": 1, "f": 2}[kind.kind]
        tensor = _Tensor(
            self.address, *self.device, len(shape), code, 8 * kind.itemsize, 1, shape, None, 0
        )
        record = _Managed(tensor, None, _forget)
        address = ctypes.addressof(record)
        _exported[address] = (record, shape, self)
        return _new_capsule(address, _PLAIN, _destroy)

    def host(self) -> np.ndarray[Any, Any]:
        """The same memory as NumPy's; of an array on the host."""
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        memory.owner = self  # type: ignore[attr-defined]
        return np.frombuffer(memory, self.dtype).reshape(self.shape)


def _capsule_of(array: Any, stream: int | None) -> Any:
    """Its capsule; of those that say whether an array may be written to, where its library makes such."""
    given = {} if stream is None else {"stream": stream}
    try:
        return array.__dlpack__(max_version=(1, 0), **given)
    except TypeError:  # its library is older than version 1.0
        return array.__dlpack__(**given)


def read_dlpack(array: Any, what: str, stream: int | None = None) -> RawArray:
    """The memory of an array, ready to be used in ``stream``.

    Args:
        array: of any library that speaks DLPack.
        what: its name for people, for example "the frame".
        stream: CUDA's, as DLPack counts them; None on the host.

    Raises:
        UsageError: its library does not hand it over, or it is not C-contiguous.
    """
    try:
        capsule = _capsule_of(array, stream)
    except Exception as error:  # of any library
        raise UsageError(f"{what} cannot be taken over through DLPack: {error}") from error
    versioned = bool(_is_capsule(capsule, _VERSIONED))
    kind, name = (_ManagedVersioned, _VERSIONED) if versioned else (_Managed, _PLAIN)
    if not _is_capsule(capsule, name):
        raise UsageError(
            f"{what} cannot be taken over through DLPack: {type(array).__name__} gives no such record"
        )
    record = kind.from_address(_pointer_of(capsule, name))
    tensor = record.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[i] for i in range(tensor.ndim))
        step, wanted = 1, []
        for side in reversed(shape):
            wanted.append(step)
            step *= side
        if any(
            side > 1 and given != needed
            for side, given, needed in zip(shape, strides, reversed(wanted), strict=True)
        ):
            raise UsageError(
                f"{what} is not C-contiguous: make it so first, it is not copied for you"
            )
    dtype = _KINDS.get(tensor.code, "unknown") + ("" if tensor.code == 6 else str(tensor.bits))
    return RawArray(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        dtype if tensor.lanes == 1 else f"{dtype}x{tensor.lanes}",
        (tensor.device_type, tensor.device_id),
        versioned and bool(record.flags & _READ_ONLY),
        capsule,  # nobody takes it, so it gives the memory back when it goes
    )
