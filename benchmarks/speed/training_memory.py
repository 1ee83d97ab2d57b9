"""Memory of end-to-end training at Stable-Diffusion-2 size, counted without a GPU.

Two steps are run on tensors that have shapes, types and life times but no contents (torch's FakeTensorMode): weights,
gradients, optimizer and everything alive in the forward and backward pass are counted; a GPU's allocator overhead and
the workspaces of its libraries are not. Attention is counted as a fused kernel, which keeps no matrix of logits.

    python -m benchmarks.speed.training_memory
"""

import argparse
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import full_size
from benchmarks.report import write_result
from e2e_deploy.frames import parse_size
from e2e_deploy.model.families import get_family
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.packages import require
from e2e_deploy.train.objectives.losses import depth_loss
from e2e_deploy.train.step.forward import TrainingForward

LIMIT_GB = 24.0
ROWS = tuple(itertools.product(("fp32", "bf16"), (True, False), (("unet",), ("unet", "vae"))))
"""Precision, gradient checkpointing, trained parts."""

PROMPT_TOKENS = 2


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Bytes of the storages that operations have made and nothing has freed, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak_bytes = 0
        self._live: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:
            return

        def free(_reference: Any) -> None:
            del self._live[key]
            self.bytes -= size

        self._live[key] = weakref.ref(storage, free)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func`` and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


def fake_model() -> SingleStepModel:
    """SD2 depth without contents; call it under a FakeTensorMode."""
    diffusers = require("diffusers", "export")
    return SingleStepModel(
        diffusers.UNet2DConditionModel(**full_size.UNET),
        diffusers.AutoencoderKL(**full_size.VAE),
        torch.zeros(1, PROMPT_TOKENS, full_size.UNET["cross_attention_dim"]),
        task="depth",
        family=get_family("e2e-ft"),
        timestep=999,
        x0_from_xt=0.0,
        x0_from_output=-1.0,
        full_z_range=True,
    )


def measure(
    size_hw: tuple[int, int], precision: str, *, checkpointing: bool, train: tuple[str, ...]
) -> dict[str, Any]:
    """Peak of the second step, when the optimizer's state is there, and what it is made of, in GB (10^9 bytes)."""
    height, width = size_hw
    with FakeTensorMode():
        forward = TrainingForward(fake_model(), train=train, gradient_checkpointing=checkpointing)
        trained = [parameter for _, parameter in forward.named_trained()]
        optimizer = torch.optim.AdamW(trained, lr=3e-5, fused=True)
        with LiveMemory() as memory:
            for weight in (*forward.parameters(), *forward.buffers()):
                memory.add(weight)
            weight_bytes = memory.bytes
            rgb = torch.zeros(1, 3, height, width)
            depth, valid = torch.ones(1, 1, height, width), torch.ones(1, 1, height, width).bool()
            for _step in range(2):  # the optimizer's state is there from the second one on
                for _micro_batch in range(2):  # the second one adds to gradients that are there
                    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                        prediction = forward(rgb, None)
                    depth_loss(prediction, depth, valid).error_sum.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
    trained_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    parts = {
        "weights": weight_bytes,
        "gradients": trained_bytes,
        "optimizer": 2 * trained_bytes,  # AdamW's two moments
        "activations": memory.peak_bytes - weight_bytes - 3 * trained_bytes,
    }
    return {
        "precision": precision,
        "gradient_checkpointing": checkpointing,
        "trained": list(train),
        "peak_gb": memory.peak_bytes / 1e9,
        "parts_gb": {name: count / 1e9 for name, count in parts.items()},
        "below_limit": memory.peak_bytes / 1e9 < LIMIT_GB,
    }


def main() -> None:
    """Count every row and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="480x640")
    arguments = parser.parse_args()
    size_hw = parse_size(arguments.size)
    rows = [
        measure(size_hw, precision, checkpointing=checkpointing, train=train)
        for precision, checkpointing, train in ROWS
    ]
    write_result(
        "training_memory",
        {"size": list(size_hw), "micro_batch": 1, "limit_gb": LIMIT_GB, "rows": rows},
    )


if __name__ == "__main__":
    main()
