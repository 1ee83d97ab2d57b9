"""How far half precision is from fp32, where it enters, and how much of that is the network: without a GPU.

python -m benchmarks.accuracy.half_precision [--frame-size 192x256] [--subjects "e2e-tiny, trained" ...] [--only whole]

Rounding as tensor cores do it: every operator computes in fp32, and its result and its weights are rounded to 16 bits;
normalisations, softmax and the last convolution stay fp32 inside, as in an export. On a network of SD2's size with
random weights at 576x768 this gives 99.55 % of pixels within 2 % in fp16, where an H200 gave 99.49 %.

Beside it the same network in fp32 on the same picture with noise of half a grey level, which is less than a camera's: a
network that answers this with more than half precision adds is not one whose half precision can be judged. Whoever
trains a depth network trains it to ignore such noise; random weights do not.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from benchmarks.export.specialise import full_size_model
from benchmarks.report import write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.graph.precision import DTYPES, set_attention
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.frames import parse_size, plan_frame
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel, SingleStepModel

Array = npt.NDArray[np.float32]
Row = dict[str, Any]
LAST = "vae.decoder.conv_out"
STREAM = ("conv2", "conv_shortcut", "to_out", "proj_out", "ff.net.2", "conv_in", "downsamplers")


def in_part(part: str) -> Callable[[str, Any], bool]:
    """Whether an operator of a module belongs to a part of the network; the last convolution to none."""

    def found(path: str, function: Any) -> bool:
        if not path or path == LAST:
            return False
        if part == "all but the residual stream":
            added = function is torch.ops.aten.add.Tensor
            return not added and not any(word in path.split("blocks.")[-1] for word in STREAM)
        return part == "everything" or path.startswith(part)

    return found


class Rounded(TorchDispatchMode):
    """Rounds results and weights to 16 bits where ``here`` says so of a module's path and an operator."""

    def __init__(
        self,
        dtype: torch.dtype,
        here: Callable[[str, Any], bool],
        *,
        weights: bool = True,
        results: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.dtype, self.here, self.weights, self.results = dtype, here, weights, results
        self.path = [""]

    def _round(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            return value.to(self.dtype).float()
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.here(self.path[-1], func):
            return func(*args, **(kwargs or {}))
        held = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if self.weights:
            args = tree_map(lambda a: self._round(a) if isinstance(a, nn.Parameter) else a, args)
        out = func(*args, **(kwargs or {}))

        def fresh(value: Any) -> Any:
            view = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in held
            return value if view else self._round(value)

        return tree_map(fresh, out) if self.results else out


class Subject:
    """A specialised depth network on one real picture, in fp32 and with parts of it rounded."""

    def __init__(self, model: SingleStepModel, frame_hw: tuple[int, int]) -> None:
        plan = plan_frame(frame_hw, 0, model.network_stride)
        self.body = specialise(model)[0]
        set_attention(self.body, fused=True)
        self.whole = FrameModel(self.body, plan, [kind.name for kind in model.kinds]).eval()
        self.frame = torch.from_numpy(reference_frames(frame_hw, 1))
        self.reference = self.run()

    @torch.no_grad()
    def run(self, rounded: Rounded | None = None, frame: Tensor | None = None) -> Array:
        """Depth [H, W]."""
        given = self.frame if frame is None else frame
        if rounded is None:
            depth: Array = self.whole(given)[0].numpy()
            return depth
        with self._watched(rounded), rounded:
            depth = self.whole(given)[0].numpy()
        return depth

    @contextmanager
    def _watched(self, rounded: Rounded) -> Iterator[None]:
        hooks: list[Any] = []
        for name, module in self.body.named_modules():

            def enter(_module: nn.Module, _inputs: Any, name: str = name) -> None:
                rounded.path.append(name)

            def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
                rounded.path.pop()

            hooks += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def facts(self, result: Array, precision: str | None = None) -> Row:
        """Distance of a result from fp32, and which pixels are more than 2 % away."""
        parity = measure_parity("depth", result, self.reference)
        error = np.abs(result.astype(np.float64) - self.reference)
        far = error > 0.02 * np.maximum(self.reference, 0.05)
        rms = float(np.sqrt(np.mean(error**2)))
        row: Row = {
            "rms": rms,
            "rms_of_spread": rms / float(self.reference.std()),
            "far": float(far.mean()),
            "far_below_a_quarter": float((self.reference[far] < 0.25).mean())
            if far.any()
            else None,
            "parity": asdict(parity),
        }
        if precision is not None:
            row["outside"] = parity.breaks(LIMITS["torch", precision])
        return row


def random_tiny() -> SingleStepModel:
    """e2e-tiny's architecture with the weights that torch starts from."""
    model = load_model(open_checkpoint(bundled_checkpoint("depth")))
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return model


def random_full() -> SingleStepModel:
    """SD2's size, the same random weights as everywhere in the benchmarks."""
    torch.manual_seed(0)
    return full_size_model(2, "cpu")


SUBJECTS: dict[str, Callable[[], SingleStepModel]] = {
    "e2e-tiny, trained": lambda: load_model(open_checkpoint(bundled_checkpoint("depth"))),
    "e2e-tiny, random weights": random_tiny,
    "SD2 size, random weights": random_full,
}
WAYS: dict[str, Row] = {
    "whole": {"part": "everything"},
    "weights alone": {"part": "everything", "results": False},
    "results alone": {"part": "everything", "weights": False},
    "encoder alone": {"part": "vae.encoder"},
    "unet alone": {"part": "unet"},
    "decoder alone": {"part": "vae.decoder"},
    "residual stream in fp32": {"part": "all but the residual stream"},
}


def noisy(frame: Tensor) -> Tensor:
    """The frame in floats, with evenly distributed noise of at most half a grey level."""
    random = torch.Generator().manual_seed(1)
    return frame.float() + torch.rand(frame.shape, generator=random) - 0.5


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frame-size", default="192x256")
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--name", default="half_precision", help="of the result file")
    return parser


def main() -> None:
    """Measure each subject, and write what there is after every row."""
    given = options().parse_args()
    frame_hw = parse_size(given.frame_size)
    subjects: Row = {}
    result = {"frame_size": list(frame_hw), "subjects": subjects}
    for name in given.subjects:
        subject = Subject(SUBJECTS[name](), frame_hw)
        reference = subject.reference
        rows: Row = {"noise": subject.facts(subject.run(frame=noisy(subject.frame)))}
        subjects[name] = {
            "spread": float(reference.std()),
            "below_a_quarter": float((reference < 0.25).mean()),
            "rows": rows,
        }
        for precision in ("fp16", "bf16"):
            for way in given.only:
                how = dict(WAYS[way])
                here = in_part(how.pop("part"))
                made = subject.run(Rounded(DTYPES[precision], here, **how))
                rows[f"{precision}, {way}"] = row = subject.facts(made, precision)
                write_result(given.name, result, quiet=True)
                share = 1 - row["far"]
                print(
                    f"{name}: {precision}, {way}: {row['rms_of_spread']:.2%} of the spread "
                    f"(noise {rows['noise']['rms_of_spread']:.2%}), {share:.2%} within 2 %",
                    flush=True,
                )
        del subject


if __name__ == "__main__":
    main()
