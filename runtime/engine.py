"""Engine: what a user loads. Opens a bundle, picks a backend and a graph, maps frames to results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import GraphEntry, Manifest
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.frames import check_frame
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.runtime.backends.backend import (
    Backend,
    Closing,
    GpuPicture,
    Loader,
    Picture,
    Result,
)
from e2e_deploy.runtime.fit import Fit


def _onnxruntime(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.onnxruntime import OrtBackend

    return OrtBackend(bundle, graph, device)


def _torch(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.torch import TorchBackend

    return TorchBackend(bundle, graph, device)


def _tensorrt(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, graph, device, library="tensorrt")


def _tensorrt_rtx(bundle: Bundle, graph: GraphEntry, device: str) -> Backend:
    from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, graph, device, library="tensorrt-rtx")


# Each loader imports its framework when it is called, so that a robot needs only the one it uses.
BACKENDS: dict[str, Loader] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
_FASTEST_FIRST = ("tensorrt", "tensorrt-rtx")


def _choose(bundle: Bundle, graph: GraphEntry, device: str) -> tuple[Backend, str]:
    """The backend for ``auto`` and why: a fitting engine of the bundle on a GPU, else ONNX Runtime.

    An engine that is damaged, or that others could have written, is an error and no reason for another backend.
    """
    held = {e.backend for e in bundle.manifest.plans if e.frame_size == graph.frame_size}
    if not held:
        why = "the bundle has no plan for this frame size"
    elif device == "cpu":
        why = "the CPU was asked for"
    elif not cuda_device_count():
        why = "no NVIDIA GPU for the bundle's plans"
    else:
        missing = []
        for name in _FASTEST_FIRST:
            if name not in held:
                continue
            try:
                return BACKENDS[name](bundle, graph, device), "the bundle's plan fits this GPU"
            except UnavailableError as error:
                missing.append(str(error))
        why = "; ".join(missing)
    # It comes with the plain install and is faster than torch on every device measured.
    return BACKENDS["onnxruntime"](bundle, graph, device), why


class Engine(Closing):
    """A bundle that is ready to run.

    Attributes:
        manifest: what the bundle is: task, checkpoint, precision, sizes.
        frame_size: (H, W) of the frames it takes.
        backend: what runs it; ``backend.name`` and ``backend.device`` say so in words.
        reason: why this backend was chosen.
    """

    def __init__(self, bundle: Bundle, graph: GraphEntry, backend: Backend, reason: str) -> None:
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.graph = graph
        self.frame_size = graph.frame_hw
        self.backend = backend
        self.reason = reason
        self._fit: Fit | None = None

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Depth float32 [H, W] or normals float32 [H, W, 3] of a frame.

        Args:
            frame: uint8 RGB [H, W, 3], exactly ``frame_size``.

        Raises:
            UsageError: another dtype, layout or size.
        """
        self._check(check_frame(frame).shape)
        return self.backend(frame)

    def submit(self, picture: Picture) -> int:
        """Begin a frame of exactly ``frame_size``; up to ``backend.slots`` may be on their way.

        Args:
            picture: uint8 RGB [H, W, 3] on the host, or on the GPU for a backend that counts its transfers.

        Returns:
            The slot, for ``collect``.

        Raises:
            UsageError: another dtype, layout or size, or on the GPU and the backend does not take it there.
        """
        if isinstance(picture, GpuPicture):
            if self.backend.transfers is None:
                raise UsageError(
                    f"frames that were decoded on the GPU need a tensorrt backend, and this is {self.backend.name}; "
                    "use --decode cpu"
                )
            self._check(picture.hw)
        else:
            self._check(check_frame(picture).shape)
        return self.backend.submit(picture)

    def collect(self, slot: int) -> Result:
        """The result of what was submitted into a slot, as soon as it is there; slots in the order of submission."""
        return self.backend.collect(slot)

    def _check(self, shape: tuple[int, ...]) -> None:
        if tuple(shape[:2]) != self.frame_size:
            height, width = shape[:2]
            raise UsageError(
                f"the frame is {height}x{width} (height x width), this engine takes {self.frame_size[0]}x"
                f"{self.frame_size[1]}; use engine.predict for any size, or export with --frame-size {height}x{width}"
            )

    def predict(self, picture: npt.NDArray[np.uint8]) -> Result:
        """Result of a picture of any size, at that size.

        The picture is fitted into the engine's frame: scaled with its aspect kept, the rest filled from its edge.

        Args:
            picture: uint8 RGB [H, W, 3].

        Raises:
            UsageError: another dtype or layout, or a size that cannot be processed.
        """
        size = (check_frame(picture).shape[0], picture.shape[1])
        if self._fit is None or self._fit.source_hw != size:
            self._fit = Fit(size, self.frame_size)
        return self._fit.to_source(self.backend(self._fit.to_engine(picture)))

    def describe(self) -> str:
        """One line for people: backend, device and why."""
        return f"{self.backend.name} ({self.backend.device}; {self.reason})"

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()


def load(
    bundle: str | Path | Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    frame_size: tuple[int, int] | None = None,
    checkpoint: str | Path | None = None,
) -> "Engine":
    """Load a bundle.

    Args:
        bundle: its folder, or an opened Bundle.
        backend: auto, onnxruntime, torch, tensorrt or tensorrt-rtx. A named backend that is not here is an
            error. With auto a fitting engine of the bundle where a GPU is, else ONNX Runtime; ``reason`` says why.
        device: auto, cpu or cuda.
        frame_size: (H, W) of the graph to load; needed only when the bundle holds several.
        checkpoint: what the bundle was exported from, for torch; else only a folder here is opened for it.

    Raises:
        BundleError: not a bundle, damaged, or changed after it was written.
        UnavailableError: the backend or device is not here.
        UsageError: an unknown backend, or a frame size that the bundle does not hold.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if checkpoint is not None:
        opened = replace(opened, checkpoint=str(checkpoint))
    graph = opened.graph_for(frame_size) if frame_size else opened.manifest.graphs[0]
    if graph.kind != "frame":
        raise UsageError(
            f"{opened.root} holds a core graph, rgb to result at the processing size, and an engine takes frames; "
            "export without --graph core"
        )
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(
            f"unknown backend {backend!r}; the backends are auto, {', '.join(BACKENDS)}"
        )
    if backend == "auto":
        return Engine(opened, graph, *_choose(opened, graph, device))
    return Engine(opened, graph, BACKENDS[backend](opened, graph, device), "named by you")
