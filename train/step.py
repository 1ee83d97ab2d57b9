"""One optimizer step: accumulation over micro-batches and processes, precision, NaN.

Knows: that a step is the mean over its micro-batches, however many processes share them; that
everything random in it comes from (seed, step, micro-batch number). Does not know: files, reports.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.train.batches import Batch
from e2e_deploy.train.config import TrainConfig
from e2e_deploy.train.forward import TrainingForward
from e2e_deploy.train.losses import LossResult, depth_loss, normals_loss
from e2e_deploy.train.noise import latent_noise
from e2e_deploy.train.report import StepReport
from e2e_deploy.train.schedule import lr_factor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Does the optimizer steps of one process.

    Args:
        forward: the model, on the CPU; moved to the accelerator's device.
        config: of the run.
        accelerator: accelerate's Accelerator, without mixed precision of its own.

    Attributes:
        accumulation: micro-batches per step and process.
        optimizer: AdamW with one group.
        last: micro-batch and prediction that came last.

    Raises:
        UsageError: the effective batch cannot be shared evenly by the processes.
        UnavailableError: the precision does not run on this device.
    """

    last: tuple[Batch, Tensor]

    def __init__(self, forward: TrainingForward, config: TrainConfig, accelerator: Any) -> None:
        optim = config.optim
        self.config, self.accelerator = config, accelerator
        self.device: torch.device = accelerator.device
        self.accumulation = share_of_process(config, accelerator.num_processes)
        _check_precision(config.model.precision, self.device)
        self.forward = forward
        self.named_parameters = forward.named_trained()
        self._wrapped = accelerator.prepare_model(forward)  # moved and, for several, wrapped in DDP
        self._parameters = [parameter for _, parameter in self.named_parameters]
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=optim.lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        is_fp16 = config.model.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_fp16)

    def autocast(self) -> torch.autocast:
        """The run's precision as a context."""
        dtype = DTYPES[self.config.model.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def run(
        self, step: int, batches: Iterator[Batch], should_stop: Callable[[], bool]
    ) -> StepReport | None:
        """Do step ``step``, counted from 0; None when it was given up because of ``should_stop``.

        A step whose loss or gradient is NaN or infinite in any process changes nothing in all of them.
        """
        world, totals = self.accelerator.num_processes, torch.zeros(2, device=self.device)
        num_images = num_bad = 0
        self.optimizer.zero_grad()
        for slot in range(self.accumulation):
            # Several processes must agree to stop; they do after the step.
            if world == 1 and should_stop():
                return None
            batch = next(batches)
            is_last = slot == self.accumulation - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self._wrapped):
                number = slot * world + self.accelerator.process_index
                result = self._loss(batch, self._seed(step, number))
                scaled: Tensor = self.scaler.scale(result.loss / self.accumulation)
                scaled.backward()  # type: ignore[no-untyped-call]  # torch's
            totals += torch.stack([result.loss.detach().float(), result.num_degenerate.float()])
            num_images += len(batch["paths"])
            num_bad += len(batch["bad"])
        lr = self._set_lr(step)
        self.scaler.unscale_(self.optimizer)
        grad_norm = float(
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.optim.clip_norm)
        )
        counts = torch.tensor([num_bad, num_images], device=self.device)
        totals = self.accelerator.reduce(torch.cat([totals, counts]), "sum")
        loss = float(totals[0]) / (world * self.accumulation)
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if (
            finite or self.scaler.is_enabled()
        ):  # the scaler skips by itself, and must see it to adapt
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepReport(
            step=step + 1,
            loss=loss,
            grad_norm=grad_norm,
            lr=lr,
            num_images=int(totals[3]),
            num_degenerate=int(totals[1]),
            num_bad=int(totals[2]),
            skipped=not finite,
        )

    def _loss(self, batch: Batch, seed: int) -> LossResult:
        rgb = batch["rgb"].to(self.device, non_blocking=True)
        torch.manual_seed(seed)  # for a network that drops out
        with self.autocast():
            prediction = self._wrapped(rgb, self._noise(rgb, seed))
        self.last = batch, prediction.detach()
        valid = batch["valid"].to(self.device, non_blocking=True)
        if self.config.task == "depth":
            return depth_loss(prediction, batch["depth_m"].to(self.device), valid)
        return normals_loss(prediction, batch["normals"].to(self.device), valid)

    def _noise(self, rgb: Tensor, seed: int) -> Tensor | None:
        kind = self.config.model.noise
        if kind == "zeros" or kind == "none":
            return None
        model = self.forward.model
        stride = 2 ** (len(model.vae.config.block_out_channels) - 1)
        shape = (len(rgb), model.latent_channels, rgb.shape[2] // stride, rgb.shape[3] // stride)
        generator = torch.Generator(self.device).manual_seed(seed)
        return latent_noise(kind, shape, generator=generator)

    def _seed(self, step: int, number: int) -> int:
        key = np.random.SeedSequence([self.config.run.seed, step, number])
        return int(key.generate_state(1, np.uint64)[0] >> 1)

    def _set_lr(self, step: int) -> float:
        optim = self.config.optim
        lr = optim.lr * lr_factor(
            step,
            warmup_steps=optim.warmup_steps,
            decay_steps=optim.decay_steps,
            final_ratio=optim.final_lr_ratio,
        )
        self.optimizer.param_groups[0]["lr"] = lr
        return lr


def share_of_process(config: TrainConfig, world: int) -> int:
    """Micro-batches per step and process.

    Raises:
        UsageError: they cannot be shared evenly.
    """
    optim = config.optim
    share, rest = divmod(optim.effective_batch, optim.micro_batch * world)
    if rest or not share:
        raise UsageError(
            f"optim.effective_batch {optim.effective_batch} is not a multiple of micro_batch "
            f"{optim.micro_batch} times {world} processes"
        )
    return share


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "fp16" and device.type != "cuda":
        raise UnavailableError(f"model.precision fp16 needs a GPU, this is {device}; use bf16")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UnavailableError(f"{torch.cuda.get_device_name()} has no bf16; use fp16 or fp32")
