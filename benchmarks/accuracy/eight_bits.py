"""What 8 bits cost a network in accuracy, int8 beside FP8 (E4M3), of weights, activations or both: no kernels needed.

    python -m benchmarks.accuracy.eight_bits [--frame-size 240x320] [--only "int8" ...]

The layers that an int8 export makes 8 bits wide (export/onnx/quantise.py) get rounded weights and rounded inputs, and
compute in fp32. Ranges are those of the export: minimum and maximum over the same four pictures. int8: weights with a
scale a channel, activations unsigned with a zero point. FP8: scales such that the largest number is E4M3's, 448.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.report import write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.export.onnx.quantise import KEPT, calibration_frames
from e2e_deploy.export.subject import Subject, plan_subjects
from e2e_deploy.frames import parse_size
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.runtime.checks.verify import worst

FP8, LARGEST = torch.float8_e4m3fn, 448.0
Layers = dict[str, nn.Conv2d | nn.Linear]
Ranges = dict[str, tuple[float, float]]
Round = Callable[[Tensor], Tensor]


def fp8(x: Tensor, largest: Tensor | float) -> Tensor:
    """``x`` in E4M3, scaled such that ``largest`` is its largest number."""
    scale = torch.as_tensor(largest) / LARGEST
    return (x / scale).clamp(-LARGEST, LARGEST).to(FP8).float() * scale


def a_channel(weight: Tensor) -> Tensor:
    """The largest weight of each output channel, [O, 1, ...]."""
    return weight.abs().flatten(1).amax(1).clamp_min(1e-12).view(-1, *[1] * (weight.ndim - 1))


def int8_weight(weight: Tensor) -> Tensor:
    """Symmetric, a scale a channel."""
    scale = a_channel(weight) / 127
    return (weight / scale).round() * scale


def uint8_input(x: Tensor, low: float, high: float) -> Tensor:
    """Unsigned, a scale and a zero point a tensor."""
    scale = max(high - low, 1e-12) / 255
    zero = round(-low / scale)
    return ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale


WEIGHTS: dict[str, Round] = {
    "int8": int8_weight,
    "fp8, a scale a channel": lambda weight: fp8(weight, a_channel(weight)),
    "fp8, a scale a tensor": lambda weight: fp8(weight, weight.abs().max()),
}


def rounded_layers(body: nn.Module) -> Layers:
    """Those that an int8 export makes 8 bits wide."""
    return {
        path: layer
        for path, layer in body.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and path.rpartition(".")[2] not in KEPT
    }


def ranges_of(subject: Subject, body: nn.Module, layers: Layers) -> Ranges:
    """Smallest and largest input of each layer over the pictures of a calibration; both ranges hold 0."""
    found = dict.fromkeys(layers, (0.0, 0.0))

    def look(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            low, high = found[path]
            found[path] = min(low, float(given[0].min())), max(high, float(given[0].max()))

        return hook

    hooks = [layer.register_forward_pre_hook(look(path)) for path, layer in layers.items()]
    subject.run(body, subject.inputs(calibration_frames(subject.plan.frame_hw)))
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def rounded(layers: Layers, ranges: Ranges, kind: str, *, inputs: bool) -> Iterator[None]:
    """A block in which the layers have weights of ``kind``, and ``inputs`` of the same width."""
    kept = {path: layer.weight.data for path, layer in layers.items()}
    hooks = []
    for path, layer in layers.items():
        low, high = ranges[path]
        largest = max(-low, high, 1e-12)
        layer.weight.data = WEIGHTS[kind](kept[path])
        if inputs:
            rounding = (
                partial(uint8_input, low=low, high=high)
                if kind == "int8"
                else partial(fp8, largest=largest)
            )
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, given, rounding=rounding: rounding(given[0])
                )
            )
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
        for path, layer in layers.items():
            layer.weight.data = kept[path]


def main() -> None:
    """Round, compare with fp32, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame-size", default="240x320")
    parser.add_argument("--only", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    given = parser.parse_args()
    hw = parse_size(given.frame_size)
    model = load_model(open_checkpoint(bundled_checkpoint("depth")))
    (subject,) = plan_subjects([hw], model=model, resolution=0)
    frames = reference_frames(hw, 2)
    references = subject.run(model, frames)["depth"]
    body, _ = specialise(model, sizes_hw=[subject.plan.padded_hw])
    body.eval()
    layers = rounded_layers(body)
    ranges = ranges_of(subject, body, layers)
    rows = {}
    for kind in given.only:
        for inputs in (False, True):
            with rounded(layers, ranges, kind, inputs=inputs):
                results = subject.run(body, frames)["depth"]
            parity = worst(
                [
                    measure_parity("depth", result, reference)
                    for result, reference in zip(results, references, strict=True)
                ]
            )
            name = f"{kind}: weights{' and activations' if inputs else ''}"
            rows[name] = asdict(parity)
            print(f"{name}: AbsRel {parity.abs_rel:.2%}, {parity.share_within_2pct:.2%} within 2 %")
    write_result(
        "eight_bits",
        {
            "checkpoint": "e2e-tiny-depth",
            "frame_size": list(hw),
            "layers": len(layers),
            "limit": asdict(LIMITS["onnxruntime", "int8"]),
            "rows": rows,
        },
        quiet=True,
    )


if __name__ == "__main__":
    main()
