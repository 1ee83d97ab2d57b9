"""Pictures of a topic as a live source of e2e-deploy: one waits, and a newer one takes its place."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import e2e_deploy as e2e
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.runtime.ros.images import Rgb, picture_of
from e2e_deploy.runtime.ros.messages import CompressedImage, Image
from e2e_deploy.runtime.sources.source import BaseSource


@dataclass(frozen=True, eq=False)
class Arrived:
    """A picture as it came, not yet decoded.

    Attributes:
        message: of it.
        camera: that was known then.
        arrived_s: when it came, on the clock of ``time.monotonic``.
    """

    message: Image | CompressedImage
    camera: CameraInfo | None
    arrived_s: float


class TopicSource(BaseSource):
    """What is put in, decoded when the engine has time for it, so that frames nobody sees cost nothing.

    Args:
        topic: of the pictures.
        camera: that metres are made with; None where it is not asked.

    Attributes:
        received: pictures that came.
    """

    is_live = True

    def __init__(self, topic: str, camera: CameraInfo | None) -> None:
        super().__init__(topic)
        self.topic, self.camera = topic, camera
        self.received = 0
        self._slot: Lane[Arrived] = Lane(1, newest=True)
        self._free = threading.Semaphore(0)

    @property
    def dropped(self) -> int:
        """Pictures that a newer one replaced while they waited."""
        return self._slot.dropped

    @property
    def is_stopped(self) -> bool:
        """Whether it gives no further picture."""
        return self._stopping.is_set()

    def put(self, message: Image | CompressedImage, camera: CameraInfo | None) -> None:
        """A picture came; called by one thread, and takes no time."""
        self.received += 1
        self._slot.put(Arrived(message, camera, time.monotonic()))

    def __iter__(self) -> Iterator[e2e.SourceFrame]:
        count = 0
        while (given := self._slot.get()) is not None and not self._stopping.is_set():
            try:
                rgb, camera = self._read(given)
            except e2e.SourceError as error:
                self.leave_out(str(error))
                self._free.acquire()
                continue
            header = given.message.header
            yield e2e.SourceFrame(
                rgb,
                count,
                None,
                "picture",
                captured_s=given.arrived_s,
                source=self.name,
                stamp_ns=header.stamp.ns,
                frame_id=header.frame_id,
                camera=camera,
            )
            count += 1
            self._free.acquire()

    def _read(self, given: Arrived) -> tuple[Rgb, CameraInfo | None]:
        """A picture, and the camera if it is one for pictures of that size."""
        rgb, camera = picture_of(given.message), given.camera
        height, width = rgb.shape[:2]
        if camera is None or (camera.height, camera.width) == (height, width):
            return rgb, camera
        why = (
            f"the camera_info is for pictures of {camera.width}x{camera.height}, and those of {self.topic} are "
            f"{width}x{height}"
        )
        if self.camera is not None:  # metres would be wrong
            raise e2e.SourceError(why)
        self.note(why)
        return rgb, None

    def taken(self, frame: e2e.SourceFrame, result: Any, facts: Any) -> Any:
        """A step of the run: the engine is done with a frame and may have the next."""
        self._free.release()
        return result

    def leave_out(self, why: str) -> bool:
        """A topic goes on without a picture that cannot be used."""
        self.skipped += 1
        self.note(why)
        self._free.release()
        return True

    def stop(self) -> None:
        """Give no further picture."""
        super().stop()
        self._slot.close(discard=True)
        self._free.release()
