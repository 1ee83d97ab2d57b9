"""The caller's arrays: what an engine is given and gives back. NumPy, or any library that speaks DLPack.

An array comes back where it came from and of the kind it came as; nothing here copies one.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.backends.dlpack import (
    CPU,
    CUDA,
    CUDA_HOST,
    DLPackArray,
    RawArray,
    read_dlpack,
)

HostArray = npt.NDArray[Any]

OUT = "`out`"


def place_of(array: object, what: str) -> tuple[int, int]:
    """Where an array lies: (kind, index), as DLPack counts devices; (CPU, 0) for all of the host.

    Raises:
        UsageError: it is no array, or lies on a device that no backend has.
    """
    if isinstance(array, np.ndarray):
        return CPU, 0
    if not hasattr(array, "__dlpack_device__") or not hasattr(array, "__dlpack__"):
        raise UsageError(
            f"{what} must be an array of NumPy or of any library that speaks DLPack; given: {type(array).__name__}"
        )
    try:
        kind, index = (int(value) for value in array.__dlpack_device__())
    except Exception as error:  # of any library
        raise UsageError(f"{what} cannot be taken over through DLPack: {error}") from error
    if kind in (CPU, CUDA_HOST):
        return CPU, 0
    if kind != CUDA:
        raise UsageError(
            f"{what} lies on a device of DLPack's kind {kind}; engines take those of the host and of CUDA"
        )
    return kind, index


def describe_place(place: tuple[int, int]) -> str:
    """A place in words."""
    return "the host" if place[0] == CPU else f"cuda:{place[1]}"


def host_array(array: Any, what: str) -> HostArray:
    """An array of the host as NumPy's, over the same memory.

    Raises:
        UsageError: its library does not hand it over, or with a type that NumPy has not.
    """
    if isinstance(array, np.ndarray):
        return array
    try:
        return np.from_dlpack(array)
    except Exception as error:  # of any library
        raise UsageError(f"{what} cannot be taken over through DLPack: {error}") from error


def check_frames(dtype: str, shape: tuple[int, ...], frame_hw: tuple[int, int], batch: int) -> None:
    """Refuse what is not uint8 RGB [batch, H, W, 3], or, for a batch of 1, [H, W, 3], of the engine's frame size.

    Raises:
        UsageError: says what was given and what is taken.
    """
    single = len(shape) == 3 and batch == 1
    if dtype != "uint8" or not (single or len(shape) == 4) or shape[-1] != 3:
        takes = "a frame is uint8 RGB [H, W, 3]"
        if batch > 1:
            takes = f"this engine takes {batch} frames at once, uint8 RGB [{batch}, H, W, 3]"
        raise UsageError(f"{takes}; given: {dtype} {list(shape)}")
    if len(shape) == 4 and shape[0] != batch:
        raise UsageError(
            f"{shape[0]} frames were given at once, and this engine takes {batch}; export with `batch={shape[0]}`"
        )
    height, width = shape[-3:-1]
    if (height, width) != frame_hw:
        raise UsageError(
            f"the frame is {height}x{width} (height x width), this engine takes {frame_hw[0]}x{frame_hw[1]}; "
            f"use engine.predict for any size, or export with `frame_sizes=[({height}, {width})]`"
        )


def require_one_result(outputs: Sequence[str]) -> None:
    """Refuse an ``out`` of an engine with several outputs.

    Raises:
        UsageError: names them.
    """
    if len(outputs) > 1:
        raise UsageError(
            f"{OUT} takes one result, and this engine gives {' and '.join(outputs)}, which are computed into one block "
            "of memory: leave it out"
        )


def writable(array: Any, shape: tuple[int, ...]) -> HostArray:
    """The caller's ``out`` on the host as NumPy's, over the same memory.

    Raises:
        UsageError: it is not float32, C-contiguous and writable, or has another shape.
    """
    if isinstance(array, np.ndarray):
        check_out(str(array.dtype), array.shape, shape, read_only=not array.flags.writeable)
        if not array.flags.c_contiguous or not array.flags.aligned:
            raise UsageError(f"{OUT} is not C-contiguous and aligned: give a whole array")
        return array
    raw = read_dlpack(array, OUT)
    check_out(raw.dtype, raw.shape, shape, read_only=raw.read_only)
    return raw.host()


def check_out(
    dtype: str, given: tuple[int, ...], wanted: tuple[int, ...], *, read_only: bool
) -> None:
    """Refuse an ``out`` that the result cannot be written to.

    Raises:
        UsageError: it is read-only, or of another type or shape than the result.
    """
    if dtype != "float32" or tuple(given) != tuple(wanted):
        raise UsageError(f"{OUT} is {dtype} {list(given)}; the result is float32 {list(wanted)}")
    if read_only:
        raise UsageError(f"{OUT} is read-only")


def as_given(result: HostArray | RawArray, like: DLPackArray) -> Any:
    """A result as an array of the library that ``like`` is of, over the same memory; itself where it has no way to."""
    if isinstance(like, np.ndarray):
        return result
    library = (
        like.__array_namespace__()
        if hasattr(like, "__array_namespace__")
        else sys.modules.get(type(like).__module__.partition(".")[0])
    )
    take = getattr(library, "from_dlpack", None)
    return result if take is None else take(result)
