"""PyTorch: the fp32 reference model, loaded from the checkpoint the bundle was exported from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import CheckpointError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.backend import OneAtATime, Result, failed
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.model.checkpoint import Checkpoint


def original_checkpoint(bundle: Bundle) -> "Checkpoint":
    """The checkpoint a bundle was exported from: ``bundle.checkpoint``, else what the manifest names if that is here.

    A bundle is data from somewhere: nothing is fetched because it says so.

    Raises:
        CheckpointError: it is not here, or its SHA-256 is not the manifest's.
    """
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.tiny import resolve_bundled

    manifest = bundle.manifest
    spec, named = bundle.checkpoint, clean(manifest.checkpoint.id, 200)
    if spec is None:
        spec = resolve_bundled(manifest.checkpoint.id)
        # Two slashes: the name of another machine, which would be asked for it.
        if spec.startswith(("//", "\\\\")) or not Path(spec).is_dir():
            raise CheckpointError(
                f"the bundle names the checkpoint {named}, which is no folder here, and nothing is fetched because a "
                "bundle names it: say yourself which checkpoint it was exported from"
            )
    checkpoint = open_checkpoint(spec, family=manifest.family, task=manifest.task)
    if checkpoint.sha256() != manifest.checkpoint.sha256:
        raise CheckpointError(
            f"{clean(spec, 200)} is not the checkpoint this bundle was exported from: its SHA-256 differs"
        )
    return checkpoint


class TorchBackend(OneAtATime):
    """The reference: same checkpoint, fp32, same pre- and post-processing as the graph.

    Raises:
        UnavailableError: torch is not installed, or the device is not here.
        CheckpointError: the checkpoint is gone, or is not the one the bundle was made from.
        E2EDeployError: when called: PyTorch fails while it computes.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, graph: GraphEntry, device: str = "auto") -> None:
        torch = require("torch", "export")
        # Imported here because this module must import on machines without torch.
        from e2e_deploy.model.loading import load_model
        from e2e_deploy.model.single_step import FrameModel

        manifest = bundle.manifest
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device not in ("cpu", "cuda"):
            raise UsageError(f"unknown device {device!r}; the devices are auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(
                "torch on cuda was asked for, but torch sees no CUDA device; use --device cpu"
            )
        model = load_model(original_checkpoint(bundle))
        plan = model.plan(graph.frame_hw, manifest.resolution, manifest.pad)
        self._torch = torch
        self._model: FrameModel | None = FrameModel(model, plan, manifest.task).eval().to(device)
        self._device = device
        self.device = "CUDA" if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """Result of one frame, uint8 RGB [H, W, 3]; of [N, H, W, 3] where the graph takes N > 1 at once."""
        # cuDNN rounds the inputs of fp32 convolutions to 10 bits (TF32) unless it is told not to.
        exact = self._torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        assert self._model is not None, "the backend is closed"
        single = frame.ndim == 3
        host_NHW3 = self._torch.from_numpy(np.ascontiguousarray(frame[None] if single else frame))
        try:
            with self._torch.inference_mode(), exact:
                results: Result = self._model(host_NHW3.to(self._device)).cpu().numpy()
        except RuntimeError as error:
            raise failed("the model fails in PyTorch", error, E2EDeployError) from error
        return results[0] if single else results

    def close(self) -> None:
        """Drop the model and its memory."""
        self._model = None
