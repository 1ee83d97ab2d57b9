"""Frames through one computation so that copies and computing overlap: two slots, three streams.

    upload stream     frame n+1
    compute stream              frame n   (one CUDA graph a slot)
    download stream                        result n-1

Each slot has its own memory on the GPU and on the host, allocated once; events order the streams. Knows addresses,
streams and events. Does not know bundles, what computes (``computation.py``) or what a result means.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from e2e_deploy.bundle.manifest import TensorSpec
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.nvidia.cuda_driver import Bytes, Driver
from e2e_deploy.runtime.backends.backend import GpuPicture, Picture
from e2e_deploy.runtime.backends.gpu.computation import Computation, Recording
from e2e_deploy.runtime.backends.gpu.transfers import Transfers
from e2e_deploy.runtime.backends.layout import ALIGNMENT

WARM_UP = 3  # the first runs load kernels lazily, which a graph capture cannot record
SLOTS = 2  # one computes while the next is uploaded and the last is downloaded; a third would only add age


@dataclass
class _Slot:
    """One frame's memory and marks; ``given`` keeps a picture on the GPU alive until its result is there."""

    frame: int
    result: int
    frame_host: Bytes
    result_host: Bytes
    start: Any
    uploaded: Any
    computed: Any
    downloaded: Any
    recording: Recording | None = None
    busy: bool = False
    given: GpuPicture | None = None


class Pipeline:
    """What runs a computation. For one thread at a time; everything is allocated here and warm afterwards.

    Args:
        driver: of the GPU.
        compute: makes the computation for a stream, in which it will be used.
        frame: its one input.
        result_bytes: of the block of its results.

    Attributes:
        cuda_graph_reason: why it runs without CUDA graphs; empty when it runs with them.
        transfers: what was copied since the warm-up.

    Raises:
        E2EDeployError: the GPU or the library refuses something; everything is released.
    """

    def __init__(
        self,
        driver: Driver,
        compute: Callable[[int], Computation],
        frame: TensorSpec,
        result_bytes: int,
    ) -> None:
        self._driver: Driver = driver
        self.transfers = Transfers(driver)
        self._closing = ExitStack()  # undoes in reverse, also what comes after a step that fails
        try:
            self._upload, self._compute, self._download = (self._stream() for _ in range(3))
            self._computation = compute(self._compute)
            self._closing.callback(self._computation.close)
            self._slots = [self._slot(frame, result_bytes) for _ in range(SLOTS)]
            self._last = self._slots[0]
            self._recordings: list[Recording] = []
            self._closing.callback(self._destroy_recordings)
            self._closing.callback(self._synchronise)
            self.cuda_graph_reason = ""
            self._warm_up()
        except BaseException:
            with suppress(E2EDeployError):
                self.close()
            raise

    def _stream(self) -> int:
        stream = self._driver.new_stream()
        self._closing.callback(self._driver.destroy_stream, stream)
        return stream

    def _slot(self, frame: TensorSpec, result_bytes: int) -> _Slot:
        driver, stack = self._driver, self._closing
        frame_bytes = int(np.prod(frame.shape)) * np.dtype(frame.dtype).itemsize
        inside, frame_host = self._memory(frame.name, frame_bytes)
        outside, result_host = self._memory("the results", result_bytes)
        events = []
        for _ in range(4):
            events.append(driver.new_event())
            stack.callback(driver.destroy_event, events[-1])
        frame_host[:] = 0
        return _Slot(inside, outside, frame_host, result_host, *events)

    def _memory(self, what: str, size: int) -> tuple[int, Bytes]:
        """Memory on the GPU and its page-locked twin on the host."""
        driver, stack = self._driver, self._closing
        address = driver.allocate(size)
        stack.callback(driver.free, address)
        if address % ALIGNMENT:
            raise E2EDeployError(
                f"the GPU memory for {what} starts at {address:#x}, which {ALIGNMENT} does not divide"
            )
        pinned = driver.allocate_pinned(size)
        stack.callback(driver.free_pinned, pinned)
        return address, pinned

    def _synchronise(self) -> None:
        for stream in (self._upload, self._compute, self._download):
            self._driver.synchronise(stream)

    def _destroy_recordings(self) -> None:
        while self._recordings:
            self._recordings.pop().destroy()

    def _queue(self, slot: _Slot) -> None:
        """Queue one frame in the three streams."""
        driver, transfers = self._driver, self.transfers
        if slot.given is None:
            transfers.upload(slot.frame, slot.frame_host, self._upload)
        else:
            size = slot.frame_host.nbytes
            transfers.on_gpu(slot.frame, slot.given.address, size, self._upload)
        driver.record(slot.uploaded, self._upload)
        driver.stream_wait(self._compute, slot.uploaded)
        driver.record(slot.start, self._compute)
        if slot.recording is None:
            self._computation.queue(slot.frame, slot.result)
        else:
            slot.recording.launch()
        driver.record(slot.computed, self._compute)
        driver.stream_wait(self._download, slot.computed)
        transfers.download(slot.result_host, slot.result, self._download)
        driver.record(slot.downloaded, self._download)

    def _warm_up(self) -> None:
        for slot in self._slots:
            for _ in range(WARM_UP):
                self._queue(slot)
                self._driver.wait(slot.downloaded)
        self._synchronise()
        for slot in self._slots:
            self.cuda_graph_reason = self.cuda_graph_reason or self._record(slot)
        if self.cuda_graph_reason:
            for slot in self._slots:
                slot.recording = None
        for slot in self._slots:  # what a recording broke must show here, not at the first frame
            self._queue(slot)
        self._synchronise()
        self.transfers.reset()

    def _record(self, slot: _Slot) -> str:
        """Record a slot's computation as a CUDA graph and run it; why that cannot be done, empty when it was."""
        try:
            slot.recording = self._computation.record(slot.frame, slot.result)
            self._recordings.append(slot.recording)
            slot.recording.launch()
            self._driver.synchronise(self._compute)
        except E2EDeployError as error:
            return str(error)
        return ""

    def submit(self, picture: Picture) -> int:
        """Queue a frame into a free slot and return its number; the picture on the host may be changed afterwards.

        Raises:
            UsageError: no slot is free.
        """
        number = next((i for i, slot in enumerate(self._slots) if not slot.busy), None)
        if number is None:
            raise UsageError(
                f"{SLOTS} frames are on their way through this engine: collect one first"
            )
        slot = self._slots[number]
        if isinstance(picture, GpuPicture):
            slot.given = picture
        else:
            slot.given = None
            np.copyto(slot.frame_host, np.ascontiguousarray(picture).reshape(-1))
        self._queue(slot)
        slot.busy = True
        return number

    def collect(self, number: int) -> Bytes:
        """The result's bytes in page-locked memory, when they are there; valid until the next ``submit``."""
        slot = self._slots[number]
        assert slot.busy, f"nothing was submitted into slot {number}"
        slot.busy = False  # also where the GPU fails: the next frame is told why, and not that there is no room
        self._driver.wait(slot.downloaded)
        slot.given, self._last = None, slot
        return slot.result_host

    @property
    def stream(self) -> int:
        """The stream that computes: a frame that ``run`` is given must be ready in it."""
        return self._compute

    def run(self, frame: int, result: int) -> None:
        """Compute from memory of the GPU to memory of the GPU, of anybody's, and wait for it; nothing is copied.

        A CUDA graph is bound to the slots' own memory, so none is used here.
        """
        self._computation.queue(frame, result)
        self._driver.synchronise(self._compute)

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that the last collected frame computed, without its copies and without waiting for another."""
        return self._driver.elapsed_ms(self._last.start, self._last.computed)

    def close(self) -> None:
        """Wait, then release everything; a second call does nothing."""
        stack, self._closing = self._closing, ExitStack()
        stack.close()
