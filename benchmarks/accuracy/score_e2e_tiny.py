"""Accuracy of the packaged e2e-tiny on rendered scenes, as deployed, and its model cards.

Every prediction comes from an exported fp32 bundle through ONNX Runtime. Held-out scenes are the data set's test split,
never seen in training. The cards also say what ``score_photo.py`` found before.

    python -m benchmarks.accuracy.score_e2e_tiny --data data/rendered

With --model a depth model that is not packaged is compared with the packaged one and with the best plane, on the
held-out scenes of every --data, and nothing is kept: two versions of the rendered scenes are two folders.

    python -m benchmarks.accuracy.score_e2e_tiny --data old --data new --model runs/e2e_tiny_depth_photos/model
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e
from benchmarks.accuracy.baselines import best_plane, mean_normal
from benchmarks.report import RESULTS, write_result
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import CARD as FACTS
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.train.accuracy import Predict, measure_accuracy
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.sample import Sample

NUM_IMAGES = 100

CARD = """# e2e-tiny-{task}

{what} from one picture in one step: the SD2 / Marigold architecture of E2E-FT (arXiv 2409.11355) at
{millions:.1f} million parameters, small enough for a laptop's CPU. Weights are fp16 safetensors;
`diffusers.{pipeline}` loads the folder.

Trained from random weights on {images} scenes rendered by `e2e-deploy data render`, with no photo and no other data,
by `benchmarks/accuracy/train_e2e_tiny.py`; the exact settings of every stage are in `e2e_deploy.json`.
Licence: Apache-2.0.

It is made to try the tools and to test them, not to be relied on. It knows rendered rooms and streets; on real photos
expect little.

| Measured on | {columns} |
|---|{rule}|
{rows}

{note}
"""


def measured(predict: Predict, data: "Known", task: str) -> dict[str, float]:
    """Metrics over at most NUM_IMAGES of a split, evenly spread."""
    spec = data.spec
    return measure_accuracy(
        predict,
        data,
        kind=task,  # type: ignore[arg-type]  # a key of the table below
        limit=NUM_IMAGES,
        depth_range_m=(max(spec.min_m, 1e-5), spec.max_m),
    ).values()


class Known:
    """The first samples of a data set; ``plane`` and ``mean_normal`` know the truth of the last one read."""

    def __init__(self, data: FolderDataset, length: int) -> None:
        self.data, self.spec, self.length = data, data.spec, min(length, len(data))
        self.left_out = data.left_out

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Sample:
        """Sample ``index``."""
        self.last = self.data.read(index)
        return self.last

    def plane(self, _rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Depth of the last sample."""
        return best_plane(self.last.depth_m, self.last.valid)

    def mean_normal(self, _rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Normals of the last sample."""
        assert self.last.normals is not None
        return mean_normal(self.last.normals, self.last.valid)


def engine_of(folder: Path, data: Known, out: Path) -> Engine:
    """The model of ``folder``, exported for pictures of the size of ``data``."""
    sizes = [data.read(0).rgb.shape[:2]]
    bundle = export_bundle(open_checkpoint(folder), out, frame_sizes=sizes)
    return e2e.load(bundle, backend="onnxruntime", device="cpu")


def compare(roots: list[Path], model: Path, work: Path) -> None:
    """Print AbsRel and delta1 of the packaged depth model, of ``model`` and of the best plane."""
    for number, root in enumerate(roots):
        data = Known(FolderDataset(root, "test"), NUM_IMAGES)
        rows = {"best plane": measured(data.plane, data, "depth")}
        for name, folder in (("packaged", bundled_checkpoint("depth")), (f"{model}", model)):
            with engine_of(folder, data, work / f"{number} {name.replace('/', ' ')}") as engine:
                rows[name] = measured(engine.predict, data, "depth")
        for name, found in rows.items():
            numbers = f"AbsRel {found['abs_rel']:.4f}  delta1 {found['delta1']:.4f}"
            print(f"{root} (test, {len(data)} scenes): {name}: {numbers}")


def score(task: str, held_out: Known, seen: Known, work: Path) -> dict[str, Any]:
    """Metrics of one task's bundle and of what knows nothing."""
    with engine_of(bundled_checkpoint(task), held_out, work / task) as engine:
        found: dict[str, Any] = {
            "held_out": measured(engine.predict, held_out, task),
            "seen_in_training": measured(engine.predict, seen, task),
        }
    baseline = held_out.plane if task == "depth" else held_out.mean_normal
    name = "affine_fit_of_pixel_coordinates" if task == "depth" else "mean_normal_of_the_scene"
    found[name] = measured(baseline, held_out, task)
    return found


def card(task: str, found: dict[str, Any], images: int, millions: float) -> str:
    """README.md of one model."""
    model = found["held_out"]
    if task == "depth":
        plane = found["affine_fit_of_pixel_coordinates"]
        photo = json.loads((RESULTS / "e2e_tiny_photo.json").read_text(encoding="utf-8"))
        columns, rule = "AbsRel | delta1", "---|---"
        rows = [
            f"| held-out scenes | {model['abs_rel']:.3f} | {model['delta1']:.3f} |",
            "| held-out scenes, best affine fit of the pixel coordinates instead | "
            f"{plane['abs_rel']:.3f} | {plane['delta1']:.3f} |",
            f"| Motorcycle photo | {photo['abs_rel']:.3f} | {photo['delta1']:.3f} |",
            f"| Motorcycle photo, a constant instead | {photo['constant_abs_rel']:.3f} | |",
        ]
        note = "Depth is affine-invariant: scale and shift are fitted to each picture's truth before it is measured."
    else:
        mean = found["mean_normal_of_the_scene"]
        columns, rule = "mean error, degrees | median | below 11.25 degrees", "---|---|---"
        rows = [
            f"| {where} | {m['mean_deg']:.1f} | {m['median_deg']:.1f} | {m['below_11_25']:.3f} |"
            for where, m in (
                ("held-out scenes", model),
                ("held-out scenes, the scene's mean normal instead", mean),
            )
        ]
        note = "x right, y up, z toward the viewer."
    return CARD.format(
        task=task,
        what={"depth": "Affine-invariant depth", "normals": "Surface normals"}[task],
        pipeline={"depth": "MarigoldDepthPipeline", "normals": "MarigoldNormalsPipeline"}[task],
        millions=millions,
        images=images,
        columns=columns,
        rule=rule,
        rows="\n".join(rows),
        note=note,
    )


def main() -> None:
    """Measure both tasks, write the result and the cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, action="append")
    parser.add_argument("--model", type=Path, help="a folder to compare with the packaged model")
    arguments = parser.parse_args()
    if arguments.model:
        with tempfile.TemporaryDirectory() as work:
            compare(arguments.data, arguments.model, Path(work))
        return
    if len(arguments.data) > 1:
        parser.error("several --data are for --model")
    splits = {split: FolderDataset(arguments.data[0], split) for split in ("test", "train")}
    test = Known(splits["test"], NUM_IMAGES)
    scores, images, cards = {}, {}, {}
    with tempfile.TemporaryDirectory() as work:
        for task in ("depth", "normals"):
            folder = bundled_checkpoint(task)
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            images[task] = facts["trained"]["images"]
            scores[task] = score(task, test, Known(splits["train"], images[task]), Path(work))
            num_bytes = sum(
                f.stat().st_size
                for part in ("unet", "vae")
                for f in folder.glob(f"{part}/*.safetensors")
            )
            text = card(task, scores[task], images[task], num_bytes / 2 / 1e6)
            cards[folder / "README.md"] = text
    write_result(
        "e2e_tiny_scores",
        {
            "train_images": images,
            "held_out_images": len(test),
            "scores": scores,
        },
    )
    for path, text in cards.items():  # after the result, whose commit they change
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
