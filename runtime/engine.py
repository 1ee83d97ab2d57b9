"""Engine: what a user loads. Opens a bundle, picks a backend and a graph, maps frames to results.

H, W: height and width in pixels. N: frames that the bundle's graph takes at once, ``Engine.batch``.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import GraphEntry, Manifest
from e2e_deploy.errors import UsageError
from e2e_deploy.names import BACKEND_CHOICES, BackendChoice
from e2e_deploy.runtime.arrays import (
    OUT,
    HostArray,
    as_given,
    check_frames,
    check_out,
    describe_place,
    host_array,
    place_of,
    require_one_result,
    writable,
)
from e2e_deploy.runtime.backends import choose_backend, load_backend
from e2e_deploy.runtime.backends.backend import Backend, Closing, GpuPicture
from e2e_deploy.runtime.backends.dlpack import CPU, DLPackArray, RawArray, read_dlpack
from e2e_deploy.runtime.backends.layout import Layout, Result, by_kind
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.system.interrupts import left_behind

Frames = npt.NDArray[np.uint8]
AnyArray = TypeVar("AnyArray", bound=DLPackArray)

FRAME = "the frame"
MAX_THREADS = 1024


class Engine(Closing):
    """A bundle that is ready to run, made by ``load``.

    Arrays are NumPy's or of any library that speaks DLPack (PyTorch, CuPy, JAX). A result comes back where its frame
    came from, the host or the GPU, as an array of the frame's own library, over the memory it was computed into; of a
    library without ``from_dlpack`` it comes back as NumPy's, or on a GPU as an object that speaks DLPack. Of several
    ``outputs`` it is a mapping, an array by each name, all in one block of memory; ``| Any`` stands for that.

    One engine serves several threads, one call at a time, and lets other threads of Python go on while it computes.
    It prints nothing and leaves the process's signal handlers alone.

    Attributes:
        bundle: what was opened.
        manifest: what the bundle is: task, checkpoint, precision, sizes.
        graph: the bundle's graph that is loaded.
        outputs: names of the results, in order.
        frame_size: (H, W) of the frames it takes.
        batch: N, frames it takes at once.
        backend: what runs it; ``backend.name`` and ``backend.device`` say so in words.
        reason: why this backend was chosen.
        closed: whether it was closed.
    """

    def __init__(self, bundle: Bundle, graph: GraphEntry, backend: Backend, reason: str) -> None:
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.graph = graph
        self.outputs = tuple(kind.output for kind in bundle.manifest.kinds)
        self._layout = Layout.of(graph, bundle.manifest.kinds)
        self.frame_size = graph.frame_hw
        self.batch = graph.batch
        self.backend = backend
        self.reason = reason
        self.closed = False
        self._lock = threading.Lock()  # of the backend, which takes one call at a time
        self._submitted: dict[int, tuple[DLPackArray | GpuPicture, int]] = {}  # and axes, by slot
        self._fit: Fit | None = None
        self._starting = threading.Lock()  # of the thread below
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        height, width = self.frame_size
        state = "closed" if self.closed else "open"
        frames = f"{height}x{width}" + (f", {self.batch} at once" if self.batch > 1 else "")
        return (
            f"<Engine {self.bundle.root.name}: {' and '.join(self.outputs)} of frames of {frames}, "
            f"{self.backend.name} on {self.backend.device}, {state}>"
        )

    def describe(self) -> str:
        """One line for people: backend, device and why."""
        return f"{self.backend.name} ({self.backend.device}; {self.reason})"

    @overload
    def __call__(self, frame: Frames, *, out: None = None) -> Result | Any: ...

    @overload
    def __call__(self, frame: AnyArray, *, out: None = None) -> AnyArray | Any: ...

    @overload
    def __call__(self, frame: DLPackArray, *, out: AnyArray) -> AnyArray: ...

    def __call__(self, frame: Any, *, out: Any = None) -> Any:
        """Depth float32 [H, W], normals [H, W, 3] or what else the bundle gives; with N > 1, or given so, [N, ...].

        Args:
            frame: uint8 RGB [H, W, 3] of exactly ``frame_size``, or [N, H, W, 3]; N = 1 takes both. On the host, where
                one that is not C-contiguous (a view of another one) is copied first and no other, or on the device of a
                backend on a GPU, where it must be C-contiguous.
            out: C-contiguous float32 memory of the result's shape, in the same place, to write the result to; of an
                engine with one output.

        Returns:
            ``out``, or a new array of the frame's own library; of several outputs a mapping by their names.

        Raises:
            UsageError: another dtype, layout, size or place, ``out`` for several outputs, no slot that is free of what
                was submitted (on a GPU), or a closed engine.
            E2EDeployError: the backend fails.
        """
        place = place_of(frame, FRAME)
        if out is not None:
            require_one_result(self.outputs)
        if out is not None and place_of(out, OUT) != place:
            raise UsageError(
                f"the frame is on {describe_place(place)} and {OUT} on {describe_place(place_of(out, OUT))}; "
                "give both in one place"
            )
        if place[0] == CPU:
            host = host_array(frame, FRAME)
            ndim = self._check(str(host.dtype), host.shape)
            memory = None if out is None else writable(out, self._layout.block_shape(ndim))
            with self._alone():
                block: Result | RawArray = self.backend(np.ascontiguousarray(host), memory)
        else:
            block, ndim = self._on_gpu(frame, out, place)
        return self._given_back(block, ndim, frame) if out is None else out

    def _given_back(self, block: Result | RawArray, ndim: int, like: DLPackArray) -> Any:
        """What a call gave as an array of the library ``like`` is of, or a mapping of such."""
        if len(self.outputs) == 1:
            return as_given(block, like)
        parts = self._layout.apart(block, ndim)
        return {name: as_given(part, like) for name, part in parts.items()}

    def _on_gpu(self, frame: Any, out: Any, place: tuple[int, int]) -> tuple[RawArray, int]:
        """The block of frames on a GPU, there, and how many axes the frames have."""
        with self._alone():
            if self.backend.gpu != place[1]:
                takes = (
                    "host" if self.backend.gpu is None else f"host and of cuda:{self.backend.gpu}"
                )
                raise UsageError(
                    f"the frame is on {describe_place(place)}, and {self.backend.name} on {self.backend.device} takes "
                    f"arrays of the {takes}"
                )
            raw = read_dlpack(frame, FRAME, self.backend.stream)
            ndim = self._check(raw.dtype, raw.shape)
            into = None if out is None else read_dlpack(out, OUT, self.backend.stream)
            if into is not None:
                wanted = self._layout.block_shape(ndim)
                check_out(into.dtype, into.shape, wanted, read_only=into.read_only)
            return self.backend.on_gpu(raw, into), ndim

    def _check(self, dtype: str, shape: tuple[int, ...]) -> int:
        """How many axes frames of this kind have; UsageError where the engine takes others."""
        check_frames(dtype, shape, self.frame_size, self.batch)
        return len(shape)

    def submit(self, frame: DLPackArray | GpuPicture) -> int:
        """Begin a frame; up to ``backend.slots`` may be on their way, so that copies and computation overlap.

        Args:
            frame: on the host, as for a call; it may be changed afterwards. Or a picture that a video was decoded to on
                the GPU, for a backend that counts its transfers.

        Returns:
            The slot, for ``collect``.

        Raises:
            UsageError: another dtype, layout, size or place, no free slot, or a closed engine.
        """
        if isinstance(frame, GpuPicture):
            if self.backend.transfers is None:
                raise UsageError(
                    "frames that were decoded on the GPU need a backend that computes there, and this is "
                    f'{self.backend.name} on {self.backend.device}; use `decode="cpu"`'
                )
            ndim = self._check("uint8", (*frame.hw, 3))
            given: GpuPicture | HostArray = frame
        else:
            if place_of(frame, FRAME)[0] != CPU:
                raise UsageError(
                    "engine.submit takes frames of the host; call the engine with one on a GPU"
                )
            given = host_array(frame, FRAME)
            ndim = self._check(str(given.dtype), given.shape)
        with self._alone():
            if len(self._submitted) >= self.backend.slots:
                raise UsageError(
                    f"{len(self._submitted)} of {self.backend.slots} slots of this engine are taken: collect one first"
                )
            slot = self.backend.submit(
                given if isinstance(given, GpuPicture) else np.ascontiguousarray(given)
            )
            self._submitted[slot] = frame, ndim
        return slot

    def collect(self, slot: int) -> Any:
        """The result of what was submitted into a slot, as soon as it is there; slots in the order of submission.

        Returns:
            A new array of the library that the frame was of, NumPy's of a GPU's picture; or a mapping of such.

        Raises:
            UsageError: nothing was submitted into the slot, or a closed engine.
        """
        with self._alone():
            if slot not in self._submitted:
                taken = ", ".join(map(str, self._submitted)) or "none"
                raise UsageError(f"nothing was submitted into slot {slot!r}; taken slots: {taken}")
            frame, ndim = self._submitted.pop(slot)
            block = self.backend.collect(slot)
        return self._given_back(block, ndim, block if isinstance(frame, GpuPicture) else frame)

    @overload
    def predict(self, picture: Frames) -> Result | Any: ...

    @overload
    def predict(self, picture: AnyArray) -> AnyArray | Any: ...

    def predict(self, picture: Any) -> Any:
        """Result of a picture of any size, at that size.

        The picture is fitted into the engine's frame: scaled with its aspect kept, the rest filled from its edge.

        Args:
            picture: uint8 RGB [H, W, 3] or [N, H, W, 3] on the host.

        Raises:
            UsageError: another dtype, layout or place, a size that cannot be processed, or a closed engine.
        """
        if place_of(picture, FRAME)[0] != CPU:
            raise UsageError(
                "engine.predict resizes on the host; call the engine with a frame on a GPU of its size"
            )
        host = host_array(picture, FRAME)
        if host.ndim >= 3 and host.shape[-3:-1] == self.frame_size:
            return self(picture)
        # Everything but the size must be right.
        shape = host.shape
        sized = (*shape[:-3], *self.frame_size, shape[-1]) if len(shape) > 2 else shape
        self._check(str(host.dtype), sized)
        given = host if host.ndim == 4 else host[None]
        with self._alone():
            if self._fit is None or self._fit.source_hw != given.shape[1:3]:
                self._fit = Fit((given.shape[1], given.shape[2]), self.frame_size)
            fit = self._fit
            block = self.backend(_stacked([fit.to_engine(each) for each in given]))
        results = {}
        for kind, several in by_kind(self.manifest.kinds, self._layout.apart(block, 4)):
            fitted = _stacked([fit.to_source(each, kind.form) for each in several])
            results[kind.output] = as_given(fitted if host.ndim == 4 else fitted[0], picture)
        return results if len(results) > 1 else results[self.outputs[0]]

    @overload
    async def predict_async(self, picture: Frames) -> Result | Any: ...

    @overload
    async def predict_async(self, picture: AnyArray) -> AnyArray | Any: ...

    async def predict_async(self, picture: Any) -> Any:
        """``predict`` in the engine's own thread; many at once are served one at a time, in order.

        An await that is cancelled gives its turn back; one that computes already ends first, and its result is lost.

        Args:
            picture: as for ``predict``.

        Raises:
            UsageError: as ``predict``.
        """
        import asyncio  # a sixth of what this module takes to import, and few wait for it

        with self._starting:
            self._require_open()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "e2e-deploy engine")
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, self.predict, picture)
        return await future

    def _require_open(self) -> None:
        if self.closed:
            raise UsageError(f"this engine of {self.bundle.root} is closed; load it again")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A block in which no other thread uses the backend."""
        self._require_open()
        with self._lock:
            self._require_open()
            yield

    def close(self) -> None:
        """Wait for what computes, then release the backend; a second call does nothing.

        What waits for its turn, and every later call, is a UsageError; results that were not collected are lost.
        """
        self.closed = True
        while not self._lock.acquire(timeout=0.2):
            if (
                left_behind()
            ):  # it computes for ever, and nothing but the end of the process ends it
                return
        try:
            self._submitted.clear()
            self.backend.close()
        finally:
            self._lock.release()
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()


def _stacked(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays of one shape with an axis for them; one alone is not copied."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def load(
    bundle: str | Path | Bundle,
    *,
    backend: BackendChoice = "auto",
    device: str = "auto",
    frame_size: tuple[int, int] | None = None,
    threads: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
    session_options: Mapping[str, Any] | None = None,
    hash_check: bool = True,
    checkpoint: str | Path | None = None,
) -> Engine:
    """Load a bundle.

    Args:
        bundle: its folder, or an opened Bundle.
        backend: auto or one of names.BACKENDS. A named backend that is not here is an error. With auto a fitting plan
            of the bundle where a GPU is, else ONNX Runtime, of bf16 bundles OpenVINO; ``Engine.reason`` says why.
        device: auto, cpu, cuda or cuda:N, with N counted from 0; of OpenVINO also intel-gpu, intel-gpu:N and npu.
        frame_size: (H, W) of the graph to load; needed only when the bundle holds several.
        threads: of the CPU for one operator; None takes every core. Of onnxruntime and openvino, and of torch and
            inductor, where it holds for the whole process from then on.
        provider_options: ONNX Runtime's for its provider on a GPU, or properties of OpenVINO, by name, over ours.
        session_options: ONNX Runtime's, by name, over ours: an attribute of its SessionOptions, or a config entry,
            which has a dot in its name and which ONNX Runtime does not check.
        hash_check: False skips the SHA-256 of the files, for a folder that nobody else can write to. The manifest, the
            paths, sizes, what is in the graph, and a plan's hash and owner are checked anyway.
        checkpoint: what the bundle was exported from, for torch; else only a folder here is opened for it.

    Raises:
        BundleError: not a bundle, damaged, or changed after it was written.
        CheckpointError: torch has no checkpoint here, or another one.
        UnavailableError: the backend or device is not here.
        UsageError: an unknown backend, device or option, an option without effect, a frame size that the bundle does
            not hold, or a core graph.
    """
    if backend not in BACKEND_CHOICES:
        raise UsageError(
            f"unknown backend {backend!r}; the backends are {', '.join(BACKEND_CHOICES)}"
        )
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"`threads` is {threads}; expected 1 to {MAX_THREADS}")
    opened = open_bundle(bundle, hash_check=hash_check)
    graph = opened.graph_for(frame_size) if frame_size else opened.manifest.graphs[0]
    if graph.kind != "frame":
        raise UsageError(
            f"{opened.root} holds a core graph, rgb to result at the processing size, and an engine takes frames; "
            'export without `graph="core"`'
        )
    given = {
        "threads": threads,
        "provider_options": provider_options,
        "session_options": session_options,
        "checkpoint": checkpoint,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if backend == "auto":
        return Engine(opened, graph, *choose_backend(opened, graph, device, options))
    return Engine(
        opened,
        graph,
        load_backend(backend, opened, graph, device, options),
        "named by you",
    )
