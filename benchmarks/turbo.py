"""The distilled e2e-tiny against its teacher in one run: accuracy on held-out scenes, and latency in turns.

Both are exported in fp32 and run by ONNX Runtime on the CPU. Accuracy is of the data set's test split, which neither
has seen; latency of frames of 480x640, as the ready bundle takes them.

    python -m benchmarks.turbo --data data/rendered --model runs/e2e_tiny_turbo/model
        [--rounds 60] [--pictures turbo.png] [--card]

--card writes the model's README.md from the numbers. --pictures draws colour, truth, teacher and distilled model
of some scenes and of the packaged photos, to be looked at.
"""

import argparse
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e
from benchmarks.accuracy.score_e2e_tiny import NUM_IMAGES, Known, measured
from benchmarks.gain import gain, in_words
from benchmarks.report import machine, write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.weights import find_weights
from e2e_deploy.runtime.checks.against import PAUSE_S
from e2e_deploy.runtime.checks.turns import in_turn
from e2e_deploy.runtime.timing import summarise
from e2e_deploy.train.data.files import write_picture
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.pictures import captioned_rows, comparison_row

FRAME_HW = (480, 640)
AT_LEAST, AT_MOST = 1.6, 1.03
"""Times faster, and times the teacher's AbsRel, of what may be packaged."""
NUM_SCENES = 6

CARD = """# e2e-tiny-turbo

Affine-invariant depth from one picture in one step: e2e-tiny-depth with a small VAE (diffusers' `AutoencoderTiny`) in
the place of its own, {millions:.1f} million parameters in all. `diffusers.MarigoldDepthPipeline` loads the folder.

The small VAE learned from e2e-tiny-depth what its own encoder and decoder do, on pictures without their truth; then all
of it was trained end to end, by `benchmarks/accuracy/train_e2e_tiny.py`. The exact settings, and what was distilled
from what, are in `e2e_deploy.json`. Licence: Apache-2.0.

It is made to try the tools and to test them, not to be relied on; see e2e-tiny-depth.

| {count} held-out scenes of the kind both learned from last; in one run | AbsRel | delta1 |
|---|---|---|
| e2e-tiny-turbo | {turbo[abs_rel]:.3f} | {turbo[delta1]:.3f} |
| e2e-tiny-depth | {teacher[abs_rel]:.3f} | {teacher[delta1]:.3f} |

Frames of {height}x{width} in turns with e2e-tiny-depth, both fp32 through ONNX Runtime on {cores} cores of {cpu}:
{faster} as fast.

Depth is affine-invariant: scale and shift are fitted to each picture's truth before it is measured.
"""


def timed(engines: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds a frame of each engine, in turn."""
    frames = list(reference_frames(FRAME_HW, 1))
    seconds = in_turn(list(engines.values()), frames, count=rounds, pause_s=PAUSE_S)
    return dict(zip(engines, seconds, strict=True))


def rows(engines: dict[str, Any], data: FolderDataset) -> Iterator[tuple[npt.NDArray[Any], str]]:
    """Colour, truth and the result of each engine side by side, with a caption."""
    for index in range(0, len(data), max(1, len(data) // NUM_SCENES)):
        sample = data.read(index)
        found = [engine.predict(sample.rgb) for engine in engines.values()]
        yield _row(sample.rgb, sample.depth_m, found, sample.valid), f"scene {index}"
    for number, photo in enumerate(reference_frames(FRAME_HW, 2)):
        found = [engine.predict(photo) for engine in engines.values()]
        yield _row(photo, found[0], found, np.ones(FRAME_HW, np.bool_)), f"photo {number}"


def _row(
    rgb: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.float32],
    found: list[npt.NDArray[np.float32]],
    valid: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    first, *others = (comparison_row(rgb, truth, each, valid, "depth") for each in found)
    width = rgb.shape[1]
    return np.concatenate([first, *(each[:, 2 * width :] for each in others)], axis=1)


def main() -> None:
    """Measure, write the result, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--card", action="store_true")
    arguments = parser.parse_args()
    test = FolderDataset(arguments.data, "test")
    held_out = Known(test, NUM_IMAGES)
    sizes = [FRAME_HW, held_out.read(0).rgb.shape[:2]]
    folders = {"teacher": bundled_checkpoint("depth"), "turbo": arguments.model}
    with tempfile.TemporaryDirectory() as work:
        engines = {
            name: e2e.load(
                export_bundle(
                    open_checkpoint(folder), Path(work) / name, frame_sizes=sizes, engine="onnx"
                ),
                backend="onnxruntime",
                device="cpu",
            )
            for name, folder in folders.items()
        }
        scores = {name: measured(each.predict, held_out, "depth") for name, each in engines.items()}
        seconds = timed(engines, arguments.rounds)
        if arguments.pictures:
            drawn, captions = zip(*rows(engines, test), strict=True)
            write_picture(arguments.pictures, captioned_rows(drawn, captions))
        for engine in engines.values():
            engine.close()
    faster = gain(seconds["teacher"], seconds["turbo"])
    worse = scores["turbo"]["abs_rel"] / scores["teacher"]["abs_rel"]
    write_result(
        "e2e_tiny_turbo",
        {
            "frame_size": list(FRAME_HW),
            "held_out_images": len(held_out),
            "scores": scores,
            "abs_rel_to_teacher": worse,
            "latency": {name: vars(summarise(each)) for name, each in seconds.items()},
            "gain": faster,
        },
    )
    if arguments.card:  # after the result, whose commit it changes
        weights = [
            find_weights(arguments.model / part, "diffusion_pytorch_model")
            for part in ("unet", "vae")
        ]
        text = CARD.format(
            millions=sum(prod(t.shape) for each in weights for t in each.tensors.values()) / 1e6,
            count=len(held_out),
            **scores,
            height=FRAME_HW[0],
            width=FRAME_HW[1],
            **{key: machine()[key] for key in ("cores", "cpu")},
            faster=in_words(faster),
        )
        (arguments.model / "README.md").write_text(text, encoding="utf-8")
    print(f"AbsRel {worse:.3f} times the teacher's, at most {AT_MOST}")
    print(f"as fast: {in_words(faster)}, at least {AT_LEAST}x")


if __name__ == "__main__":
    main()
