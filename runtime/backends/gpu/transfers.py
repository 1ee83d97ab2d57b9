"""The one way between host and GPU: every frame and every result that crosses goes through here and is counted.

Knows directions, calls and bytes, and what a frame may cost (``BUDGETS``). Does not know streams' order or plans.
"""

from dataclasses import dataclass

from e2e_deploy.nvidia.cuda_driver import Bytes, Driver

UPLOAD, DOWNLOAD, ON_GPU = "upload", "download", "on_gpu"
DIRECTIONS = (UPLOAD, DOWNLOAD, ON_GPU)


@dataclass(frozen=True)
class Count:
    """Copies of one direction."""

    calls: int = 0
    bytes: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.calls + other.calls, self.bytes + other.bytes)

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.calls - other.calls, self.bytes - other.bytes)


Counts = dict[str, Count]
"""A Count for each of DIRECTIONS."""

# Where a frame comes from: what one frame costs, by direction. A frame is uint8 [H, W, 3], a result float32. One that
# was decoded on the GPU is downloaded when a sink shows it too.
BUDGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "host frame": {UPLOAD: ("frame",), DOWNLOAD: ("result",), ON_GPU: ()},
    "gpu frame": {UPLOAD: (), DOWNLOAD: ("result",), ON_GPU: ("decoded", "frame")},
    "gpu frame, shown": {UPLOAD: (), DOWNLOAD: ("result", "frame"), ON_GPU: ("decoded", "frame")},
}


def budget(mode: str, *, frame_bytes: int, result_bytes: int) -> Counts:
    """What one frame costs in a mode of BUDGETS."""
    sizes = {"frame": frame_bytes, "decoded": frame_bytes, "result": result_bytes}
    return {
        direction: Count(len(copies), sum(sizes[name] for name in copies))
        for direction, copies in BUDGETS[mode].items()
    }


class Transfers:
    """Queues copies and counts them. For one thread at a time.

    Attributes:
        counts: what was copied so far.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.counts: Counts = {}
        self.reset()

    def reset(self) -> None:
        """Count from nothing."""
        self.counts = dict.fromkeys(DIRECTIONS, Count())

    def _add(self, direction: str, size: int) -> None:
        self.counts[direction] += Count(1, size)

    def upload(self, address: int, array: Bytes, stream: int) -> None:
        """Queue a copy of a whole page-locked array to the GPU."""
        self._driver.copy_in(address, array, stream)
        self._add(UPLOAD, array.nbytes)

    def download(self, array: Bytes, address: int, stream: int) -> None:
        """Queue a copy from the GPU that fills a page-locked array."""
        self._driver.copy_out(array, address, stream)
        self._add(DOWNLOAD, array.nbytes)

    def on_gpu(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy within the GPU."""
        self._driver.copy_on_gpu(address, source, size, stream)
        self._add(ON_GPU, size)
