"""Video files decoded on the GPU by PyNvVideoCodec: frames that never were on the host. Asked for, never chosen.

Written after PyNvVideoCodec 2.2 and tested against a double of it; not executed on hardware. PyAV reads the header.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Driver
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.backend import GpuPicture
from e2e_deploy.runtime.backends.gpu.transfers import Transfers
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.runtime.sources.video.timeline import FrameTime
from e2e_deploy.runtime.sources.video_source import VideoSource

Rgb = npt.NDArray[np.uint8]

AHEAD = 4  # frames that the decoder's own thread prepares


class GpuFrame(SourceFrame):
    """A frame on the GPU; ``rgb`` downloads it, once, when somebody on the host asks for it."""

    _picture: GpuPicture
    _fetch: Callable[["GpuFrame"], Rgb]

    def __init__(self, picture: GpuPicture, fetch: Callable[["GpuFrame"], Rgb], **facts: Any):
        self.__dict__.update(facts, _picture=picture, _fetch=fetch, captured_s=time.monotonic())

    @property
    def picture(self) -> GpuPicture:
        """The frame on the GPU."""
        return self._picture

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W)."""
        return self._picture.hw

    @property
    def rgb(self) -> Rgb:
        """uint8 [H, W, 3] on the host."""
        return self._fetch(self)


class GpuVideoSource(BaseSource):
    """A video file, every frame of it, decoded on the GPU into memory that is used again when a frame is forgotten.

    Presentation times are read from the file beside the decoder. What the decoder does not do (turning, square pixels,
    deinterlacing, HDR) is refused.

    Args:
        path: of the video.
        stream: index of its video stream; the decoder takes the best one and no other.
        driver: of the GPU; by default the first one's.

    Raises:
        UnavailableError: PyNvVideoCodec or the GPU is missing.
        SourceError: not a video, or one that needs the CPU's decoder; while iterating: the decoder refuses it, or its
            frames change their size, or the file ends early.
    """

    def __init__(
        self, path: Path, *, stream: int | None = None, driver: Driver | None = None
    ) -> None:
        self._file = VideoSource(path, stream=stream)
        super().__init__(self._file.name, fps=self._file.fps, total=self._file.total, files=[path])
        look, is_best = self._file.first_look()
        if not is_best:
            raise SourceError(
                f"{self.name}: the GPU's decoder reads the best video stream alone; decode stream {stream} on the CPU"
            )
        if look.needs:
            raise SourceError(
                f"{self.name} needs {' and '.join(look.needs)}, which is done on the CPU alone: decode it there"
            )
        self.notes = self._file.notes
        self._path, self._hw = path, look.hw
        try:
            self._nvc: Any = require("PyNvVideoCodec", "video-gpu")
        except (OSError, RuntimeError) as error:  # it asks the driver when it is imported
            raise UnavailableError(
                f"the package 'PyNvVideoCodec' does not load ({error}); install a newer NVIDIA driver with its video "
                'libraries, or use `decode="cpu"`'
            ) from error
        self._driver = driver = driver or CudaDriver("video-gpu")
        driver.use()
        self.transfers = self._counted = Transfers(driver)
        self._lock = (
            threading.RLock()
        )  # a frame may be forgotten in any thread, also in this very one
        self._size = self._hw[0] * self._hw[1] * 3
        self._stream = driver.new_stream()
        self._pinned = driver.allocate_pinned(self._size)
        self._made = 0
        self._free: list[int] = []
        self._finished = False

    def __iter__(self) -> Iterator[SourceFrame]:
        self._driver.use()
        count = 0
        decoder: Any = None
        surfaces: Any = None
        times = self._file.times()
        try:
            decoder = self._ask(self._decoder, count)
            while not self._stopping.is_set():
                surfaces = self._ask(lambda: decoder.get_batch_frames(1), count)
                if not surfaces:
                    break
                yield self._keep(surfaces[0], count, next(times, FrameTime(None, None, 0.0)))
                count += 1
        finally:
            try:
                if decoder is not None:
                    decoder.end()
            finally:
                decoder = surfaces = None  # they go before the stream and context that they use
                with self._lock:
                    self._finished = True
                    self._release()
        if not self._stopping.is_set():
            lacking = sum(1 for _ in times)  # this also finds out whether the file ends early
            if lacking:
                raise SourceError(
                    f"{self.name}: the GPU's decoder gave {count} of {count + lacking} frames; decode it on the CPU"
                )

    def _decoder(self) -> Any:
        return self._nvc.ThreadedDecoder(
            str(self._path),
            AHEAD,
            gpu_id=0,
            cuda_context=self._driver.context,
            cuda_stream=self._stream,
            use_device_memory=True,
            output_color_type=self._nvc.OutputColorType.RGB,
        )

    def _ask(self, call: Callable[[], Any], count: int) -> Any:
        try:
            return call()
        except Exception as error:
            # PyNvVideoCodec documents no common base class of its exceptions. Their traceback would keep the decoder.
            said = " ".join(str(error).split())
            raise SourceError(
                f'{self.name} cannot be decoded on the GPU after frame {count}: {said}; use `decode="cpu"`'
            ) from error.with_traceback(None)

    def _keep(self, surface: Any, index: int, time: FrameTime) -> SourceFrame:
        """A frame of its own: the decoder uses its surface again."""
        if surface.framesize() != self._size:
            raise SourceError(
                f'{self.name} changes its size at frame {index}; use `decode="cpu"` for such files'
            )
        with self._lock:
            if not self._free:
                self._free.append(self._driver.allocate(self._size))
                self._made += 1
            address = self._free.pop()
            self._counted.on_gpu(address, surface.GetPtrToPlane(0), self._size, self._stream)
            self._driver.synchronise(self._stream)
        picture = GpuPicture(address, self._hw)
        weakref.finalize(picture, self._give_back, address).atexit = False
        facts = {"index": index, "name": self._path.stem, "source": self.name}
        return GpuFrame(picture, self._fetch, **facts, **time._asdict())

    def _fetch(self, frame: GpuFrame) -> Rgb:
        with self._lock:
            if "on_host" not in frame.__dict__:
                self._driver.use()
                self._counted.download(self._pinned, frame.picture.address, self._stream)
                self._driver.synchronise(self._stream)
                frame.__dict__["on_host"] = self._pinned.reshape(*self._hw, 3).copy()
            host: Rgb = frame.__dict__["on_host"]
            return host

    def _give_back(self, address: int) -> None:
        with self._lock:
            self._free.append(address)
            self._release()

    def _release(self) -> None:
        """Free everything, when no frame is left anywhere and none will come."""
        if self._finished and len(self._free) == self._made:
            self._driver.use()
            while self._free:
                self._driver.free(self._free.pop())
                self._made -= 1
            self._finished = False
            self._driver.free_pinned(self._pinned)
            self._driver.destroy_stream(self._stream)
            self._driver.close()
