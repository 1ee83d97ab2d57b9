"""PyTorch: the fp32 reference model, loaded from the checkpoint the bundle was exported from."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, VaeEntry
from e2e_deploy.errors import BundleError, CheckpointError, E2EDeployError, UsageError, failed
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.backend import OneAtATime
from e2e_deploy.runtime.backends.device import parse_device, require_cuda
from e2e_deploy.runtime.backends.dlpack import CPU, RawArray, read_dlpack
from e2e_deploy.runtime.backends.layout import Layout, Result
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.model.checkpoint import Checkpoint


_ELSEWHERE = ("//", "\\\\")
"""Beginnings of the name of another machine, which would be asked for it."""


def original_checkpoint(bundle: Bundle) -> "Checkpoint":
    """The checkpoint a bundle was exported from: ``bundle.checkpoint``, else what the manifest names if that is here.

    A bundle is data from somewhere: nothing is fetched because it says so.

    Raises:
        CheckpointError: it is not here, or its SHA-256 is not the manifest's.
    """
    from e2e_deploy.model.checkpoint import BUNDLED, open_checkpoint

    manifest = bundle.manifest
    spec, named = bundle.checkpoint, clean(manifest.checkpoint.id, 200)
    if spec is None:
        spec = manifest.checkpoint.id
        is_away = spec.startswith(_ELSEWHERE) or not Path(spec).is_dir()
        if is_away and not spec.startswith(BUNDLED):
            raise CheckpointError(
                f"the bundle names the checkpoint {named}, which is no folder here, and nothing is fetched because a "
                "bundle names it: name what it was exported from with `checkpoint`"
            )
    checkpoint = open_checkpoint(
        spec, family=manifest.family, task=manifest.task, settings=manifest.settings
    )
    if checkpoint.sha256() != manifest.checkpoint.sha256:
        raise CheckpointError(
            f"{clean(spec, 200)} is not the checkpoint this bundle was exported from: its SHA-256 differs; name the "
            "one it was exported from with `checkpoint`"
        )
    return checkpoint if manifest.vae is None else _with_its_vae(checkpoint, manifest.vae)


def _with_its_vae(checkpoint: "Checkpoint", entry: VaeEntry) -> "Checkpoint":
    """The checkpoint with the VAE that the bundle was exported with, if that is on this machine."""
    from e2e_deploy.model.coders.swap import coder_folder, swap_coder

    named = clean(entry.id, 200)
    try:
        if entry.id.startswith(_ELSEWHERE):
            raise CheckpointError("it is another machine's")
        coder_folder(entry.id, fetch=False)
    except (CheckpointError, UsageError) as error:
        raise CheckpointError(
            f"the bundle names the VAE {named}, which is not on this machine (a folder is looked for from the current "
            "one), and nothing is fetched because a bundle names it: put it there, or export again with the `vae` at "
            "hand"
        ) from error
    swapped = swap_coder(checkpoint, entry.id, entry.part, fetch=False)
    assert swapped.coder is not None
    if swapped.coder.sha256() != entry.sha256:
        raise CheckpointError(
            f"{named} is not the VAE this bundle was exported with: its SHA-256 differs"
        )
    return swapped


class _Exact:
    """Blocks in which cuDNN does not round the inputs of fp32 convolutions to 10 bits (TF32).

    That is told for the whole process: blocks of several threads share it, and the last one puts back what was before.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._said = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self, torch: Any) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                flags = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
                self._said.enter_context(flags)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._said.close()


_exact = _Exact()


class TorchBackend(OneAtATime):
    """The reference: same checkpoint, fp32, same pre- and post-processing as the graph.

    Args:
        bundle: opened.
        graph: one of its graphs.
        device: auto, cpu, cuda or cuda:N.
        threads: of one operator on the CPU, for the whole process from then on: PyTorch knows no others.
        checkpoint: what the bundle was exported from; else only a folder here is opened for it.

    Raises:
        UnavailableError: torch is not installed, or the device is not here.
        UsageError: threads for a GPU.
        CheckpointError: the checkpoint is gone, or is not the one the bundle was made from.
        BundleError: the manifest lists other results than the checkpoint gives.
        E2EDeployError: when called: PyTorch fails while it computes.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Bundle,
        graph: GraphEntry,
        device: str = "auto",
        *,
        threads: int | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        torch = require("torch", "export")
        # Imported here because this module must import on machines without torch.
        from e2e_deploy.model.loading import load_model
        from e2e_deploy.model.single_step import FrameModel

        asked, count = parse_device(device), torch.cuda.device_count()
        on_gpu = asked.kind == "cuda" or (asked.kind == "auto" and torch.cuda.is_available())
        if asked.kind == "cuda":
            require_cuda(asked.index, count if torch.cuda.is_available() else 0, "torch")
        if threads is not None and on_gpu:
            raise UsageError("`threads` has no effect with torch on a GPU")
        if checkpoint is not None:
            bundle = replace(bundle, checkpoint=str(checkpoint))
        manifest = bundle.manifest
        model = load_model(original_checkpoint(bundle))
        gives = [kind.name for kind in model.kinds]
        if gives != manifest.outputs:
            raise BundleError(
                f"the manifest of {bundle.root} lists {' and '.join(manifest.outputs)}; its checkpoint gives "
                f"{' and '.join(gives)}"
            )
        plan = model.plan(graph.frame_hw, manifest.resolution, manifest.pad)
        if threads is not None:
            torch.set_num_threads(threads)
        self._torch, self._layout = torch, Layout.of(graph, manifest.kinds)
        self._device = f"cuda:{asked.index}" if on_gpu else "cpu"
        self._model: FrameModel | None = (
            FrameModel(model, plan, manifest.outputs).eval().to(self._device)
        )
        self.device = f"CPU, {torch.get_num_threads()} threads"
        if on_gpu:
            self.gpu = asked.index
            self.device = "CUDA" if not asked.index else f"CUDA, device {asked.index}"

    def __call__(self, frame: npt.NDArray[np.uint8], out: Result | None = None) -> Result:
        """Result of frames, uint8 RGB as the graph takes them."""
        frame = np.ascontiguousarray(frame)
        # Not from_numpy, which warns about frames that may not be written to.
        host = RawArray(frame.ctypes.data, frame.shape, str(frame.dtype), (CPU, 0), owner=frame)
        results = [each.cpu().numpy() for each in self._run(self._torch.from_dlpack(host))]
        return self._layout.together(results, frame.ndim, out)

    def on_gpu(self, frame: RawArray, out: RawArray | None = None) -> RawArray:
        """Result of frames in the GPU's memory."""
        torch, ndim = self._torch, len(frame.shape)
        results, shape = self._run(torch.from_dlpack(frame)), self._layout.block_shape(ndim)
        if out is None and len(results) == 1:
            out = read_dlpack(results[0].reshape(shape).contiguous(), "the result", self.stream)
        else:
            if out is None:
                block = torch.empty(shape, dtype=torch.float32, device=self._device)
                out = read_dlpack(block, "the result", self.stream)
            parts = self._layout.apart(out, 4).values()
            for part, result in zip(parts, results, strict=True):
                torch.from_dlpack(part).copy_(result)
        self._torch.cuda.synchronize(self._device)
        return out

    def _run(self, frame: Any) -> list[Any]:
        """The model's results [N, ...] for a tensor of frames, where the model is."""
        assert self._model is not None, "the backend is closed"
        frames_NHW3 = frame if frame.ndim == 4 else frame[None]
        try:
            with self._torch.inference_mode(), _exact(self._torch):
                made = self._model(frames_NHW3.to(self._device))
        except RuntimeError as error:
            raise failed("the model fails in PyTorch", error, E2EDeployError) from error
        return list(made) if isinstance(made, tuple) else [made]

    def close(self) -> None:
        """Drop the model and its memory."""
        self._model = None
