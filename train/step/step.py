"""One optimizer step: accumulation over micro-batches and processes, precision, NaN.

A GPU is waited for once, when all of the step is on its way: what it found comes back in one piece.
Knows: that a step is one mean over its valid pixels, however they are dealt to micro-batches and processes; that
everything random in it comes from (seed, step, image of the step). Does not know: files, reports.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.batches import Batch
from e2e_deploy.train.objectives.decoded import Truth
from e2e_deploy.train.objectives.losses import LossResult
from e2e_deploy.train.sharding.cut import Sharding, local, norm_of
from e2e_deploy.train.step.choices import Choices
from e2e_deploy.train.step.compiled import compile_regions
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.half_weights import HalfWeights
from e2e_deploy.train.step.objective import Decoded, Objective
from e2e_deploy.train.step.passes import in_passes, num_passes
from e2e_deploy.train.step.schedule import lr_factor
from e2e_deploy.train.step.step_report import StepReport

NOMINAL_PIXELS = 2.0**16
"""Divides the sum of an image's errors in the backward pass, so that fp16 gradients have their usual size; how many
valid pixels the step has is known after it, and the gradients are corrected then."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Does the optimizer steps of one process.

    Args:
        forward: the model, on the CPU; moved to the accelerator's device.
        config: of the run.
        accelerator: accelerate's Accelerator, without mixed precision of its own.
        objective: what the steps make small; None for the losses of decoded results.
        direction_weight: of the term against inverted depth; 0 for the paper's loss alone.
        choices: how the steps are done; None computes them one micro-batch at a time, not compiled.

    Attributes:
        accumulation: micro-batches per step of this process; some may have one more than others.
        optimizer: AdamW with one group.
        last: the micro-batch that came last.

    Raises:
        UsageError: there are more processes than micro-batches in a step.
        UnavailableError: the precision does not run on this device.
    """

    last: Batch

    def __init__(
        self,
        forward: TrainingForward,
        config: TrainConfig,
        accelerator: Any,
        *,
        objective: Objective | None = None,
        direction_weight: float = 0.0,
        choices: Choices | None = None,
    ) -> None:
        optim = config.optim
        self.direction_weight = direction_weight
        self.config, self.accelerator = config, accelerator
        self.objective = objective or Decoded(forward, config)
        self.device: torch.device = accelerator.device
        self.accumulation = share_of_process(
            config, accelerator.num_processes, accelerator.process_index
        )
        self._largest_share = share_of_process(config, accelerator.num_processes)
        self.choices = choices or Choices()
        check_precision(config.model.precision, self.device)
        self.forward = forward.to(self.device)
        if self.choices.gradient_checkpointing:
            forward.checkpoint_activations()
        self.sharding: Sharding | None = None
        cut: tuple[nn.Module, ...] = ()
        if self.choices.sharded:
            self.sharding = Sharding(forward.parts, self.device, accelerator.num_processes)
            cut = self.sharding.modules  # autocast casts their weights as they come together
        self.named_parameters = forward.named_trained()
        self._parameters = [parameter for _, parameter in self.named_parameters]
        self._half_weights = HalfWeights(
            forward,
            DTYPES[config.model.precision],
            channels_last=self.choices.compiled,
            exclude=(*forward.float32_layers, *cut),
        )
        if self.choices.compiled:
            compile_regions(forward)
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=optim.lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        is_fp16 = config.model.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_fp16)

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.config.model.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """``forward`` in the run's precision, without gradients, for pictures of any size: nothing is compiled."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._autocast())
            if self.choices.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def run(
        self, step: int, batches: Iterator[Batch], should_stop: Callable[[], bool]
    ) -> StepReport | None:
        """Do step ``step``, counted from 0; None when it was given up because of ``should_stop``.

        A step whose loss or gradient is NaN or infinite in any process changes nothing in all of them, nor does one in
        which no image has a usable truth.
        """
        world = self.accelerator.num_processes
        sums = _StepSums(self.device, self.objective.names)
        nominal = float(self._largest_share)  # the same in all processes
        if self.config.loss.mean != "micro_batch":
            nominal *= self.config.optim.micro_batch * NOMINAL_PIXELS
        self.optimizer.zero_grad()
        slot = done = 0
        with self._half_weights.in_use():
            passes = in_passes(
                islice(batches, self.accumulation), self.choices.micro_batches_per_pass
            )
            for together in passes:
                # Several processes must agree to stop; they do after the step.
                if world == 1 and should_stop():
                    return None
                objective = self._objective(step, slot, together, sums)
                self._backward(objective / nominal)
                slot, done = slot + len(together), done + 1
            for _ in range(done, self._passes_of_all()):
                nothing = _StepSums(self.device, self.objective.names)
                self._backward(0 * self._objective(step, slot, [self.last], nothing))
        lr = self._set_lr(step)
        found = self._update(nominal, sums.over_processes(self.accelerator))
        total = dict(zip((*sums.names, "grad_norm"), found.tolist(), strict=True))
        weight, has_truth = max(total["weight"], 1.0), total["num_valid"] > 0
        loss = total["error"] / weight
        return StepReport(
            step=step + 1,
            loss=loss if has_truth else None,
            terms={name: total[name] / weight for name in self.objective.names},
            direction=total["direction"] / weight,
            grad_norm=total["grad_norm"],
            lr=lr,
            **{name: int(total[name]) for name in _StepSums.COUNTS},
            skipped=not (math.isfinite(loss) and math.isfinite(total["grad_norm"])),
        )

    def _backward(self, objective: Tensor) -> None:
        scaled: Tensor = self.scaler.scale(objective)
        scaled.backward()  # type: ignore[no-untyped-call]  # torch's

    def _passes_of_all(self) -> int:
        """Passes that every process makes, as slices come together in each; 0 where nobody waits for another's.

        Who has fewer micro-batches computes with its last one again, and changes nothing by it.
        """
        if self.sharding is None:
            return 0
        world, most = self.accelerator.num_processes, self.choices.micro_batches_per_pass
        shares = [share_of_process(self.config, world, rank) for rank in (0, world - 1)]
        return max(num_passes(share, most) for share in shares)

    def _objective(
        self, step: int, slot: int, together: Sequence[Batch], sums: "_StepSums"
    ) -> Tensor:
        """What is differentiated of a pass: micro-batches of the step, the first one being number ``slot``."""
        accelerator, micro_batch = self.accelerator, self.config.optim.micro_batch
        seeds = list[int]()
        for number, batch in enumerate(together, slot):
            first = (number * accelerator.num_processes + accelerator.process_index) * micro_batch
            seeds += [self._seed(step, first + image) for image in range(len(batch["paths"]))]
        rgb = torch.cat([self._sent(batch["rgb"]) for batch in together])
        if self.choices.compiled:
            rgb = rgb.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(seeds[0])  # for a network that drops out
        truths = [self._truth(batch) for batch in together]
        with self._autocast():
            results = self.objective.results(rgb, truths, seeds)
        self.last = together[-1]
        objectives = []
        for batch, result in zip(together, results, strict=True):
            share = sums.add(result, batch, per_micro_batch=self.config.loss.mean == "micro_batch")
            objective = result.error_sum + self.direction_weight * result.direction_sum
            objectives.append(objective * share)
        return torch.stack(objectives).sum()

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, this process may ``predict`` by itself; all processes enter and leave together."""
        return nullcontext() if self.sharding is None else self.sharding.whole()

    def predict(self, rgb_B3HW: Tensor) -> Tensor:
        """Results as they are deployed, [B, channels of every kind, H, W], float32 in [-1, 1], of rgb in [-1, 1]."""
        with self.measuring():
            return self.objective.predict(rgb_B3HW.to(self.device)).float()

    def _sent(self, tensor: Tensor) -> Tensor:
        """To the device, without waiting for it."""
        return tensor.to(self.device, non_blocking=True)

    def _truth(self, batch: Batch) -> Truth:
        return Truth(
            depth_m=self._sent(batch["depth_m"]),
            normals=self._sent(batch["normals"]),
            picture=self._sent(batch["picture"]),
            valid=self._sent(batch["valid"]),
        )

    def _update(self, nominal: float, total: Tensor) -> Tensor:
        """Let the optimizer step, unless loss or gradient is no number or nothing was true; ``total`` and the norm."""
        if self.accelerator.num_processes > 1 and self.sharding is None:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        self.scaler.unscale_(self.optimizer)
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        error, weight, num_valid = (total[_StepSums.FIXED.index(n)] for n in _StepSums.DECIDING)
        correction = nominal / weight.clamp(min=1.0)
        norm = norm_of(gradients, self.accelerator) * correction
        # As clip_grad_norm_; both factors in one go.
        clip = (self.config.optim.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        factor = (correction * clip).to(gradients[0].dtype)
        torch._foreach_mul_([local(each) for each in gradients], factor)
        if self.scaler.is_enabled():
            # It skips by itself, and must see NaN to adapt.
            if num_valid.item() > 0:
                self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            is_wrong = ~(error.isfinite() & norm.isfinite()) | (num_valid == 0)
            # AdamW's fused kernels leave everything as it is then, so nobody has to wait for the answer.
            self.optimizer.found_inf = is_wrong.float()  # type: ignore[attr-defined]  # torch's, as by its scaler
            self.optimizer.step()
        return torch.cat([total, norm.double().reshape(1)])

    def why_broken(self) -> str | None:
        """What is NaN or infinite in the model after the last step, or None: a step with numbers may break it."""
        weight = nonfinite_weight(self.forward.parts)
        with self.whole_weights():  # entered by all, also where the others' slices are broken
            prediction = None if weight else self.predict(self.last["rgb"])
        if prediction is None:
            return f"the weight {weight}"
        return None if prediction.isfinite().all() else "the prediction for the last images"

    def _seed(self, step: int, image: int) -> int:
        key = np.random.SeedSequence([self.config.run.seed, step, image])
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


class _StepSums:
    """What the micro-batches of a step add up to, on the device until the step is over."""

    COUNTS = ("num_degenerate", "num_flat", "num_negative", "num_images", "num_bad")
    FIXED = ("error", "direction", "weight", "num_valid", *COUNTS)
    DECIDING = ("error", "weight", "num_valid")

    def __init__(self, device: torch.device, terms: tuple[str, ...]) -> None:
        self.names = (*self.FIXED, *terms)
        # float64 counts the pixels of any step exactly.
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)

    def add(self, result: LossResult, batch: Batch, *, per_micro_batch: bool) -> Tensor:
        """Add a micro-batch; returns what its sums are multiplied with in the step's.

        Every pixel of the step weighs the same; or those of a micro-batch do, and each micro-batch weighs 1.
        """
        num_valid = result.num_valid.double()
        one = torch.ones_like(num_valid)
        share = one / num_valid.clamp(min=1) if per_micro_batch else one
        self._sums += torch.stack(
            [
                result.error_sum.detach() * share,
                result.direction_sum.detach() * share,
                one if per_micro_batch else num_valid,
                num_valid,
                result.num_degenerate.double(),
                result.num_flat.double(),
                result.num_negative.double(),
                one * len(batch["paths"]),
                one * len(batch["bad"]),
                *(each.detach() * share for each in result.parts),
            ]
        )
        return share

    def over_processes(self, accelerator: Any) -> Tensor:
        """The sums over all processes, float64 in the order of ``names``."""
        total: Tensor = accelerator.reduce(self._sums, "sum")
        return total


def nonfinite_weight(parts: Mapping[str, nn.Module]) -> str | None:
    """Name of the first weight of ``parts`` that holds NaN or infinity, or None."""
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            if not local(tensor).isfinite().all():
                return f"{part}.{name}"
    return None


def share_of_process(config: TrainConfig, world: int, rank: int = 0) -> int:
    """Micro-batches per step of process ``rank`` of ``world``; the first has the most, the last the fewest.

    Raises:
        UsageError: there is not one for each.
    """
    optim = config.optim
    per_step = optim.effective_batch // optim.micro_batch
    if per_step < world:
        raise UsageError(
            f"optim.effective_batch {optim.effective_batch} is {per_step} micro-batches of {optim.micro_batch}, which "
            f"give {world} processes not one each: use fewer processes, or a smaller optim.micro_batch"
        )
    return len(range(rank, per_step, world))


def check_precision(precision: str, device: torch.device) -> None:
    """UnavailableError if ``device`` does not compute in ``precision``."""
    if precision == "fp16" and device.type != "cuda":
        raise UnavailableError(f"model.precision fp16 needs a GPU, this is {device}; use bf16")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UnavailableError(f"{torch.cuda.get_device_name()} has no bf16; use fp16 or fp32")
