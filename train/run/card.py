"""What the card of a trained model says of its training: facts, and a note if the result must not be trusted.

Knows: which numbers belong to which weights. Does not know: files.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from e2e_deploy.errors import InputError
from e2e_deploy.model.checkpoint import CARD
from e2e_deploy.system.json_files import read_json
from e2e_deploy.train.accuracy import MAX_NEGATIVE_SCALES, NOTES, Evaluation, criterion_of
from e2e_deploy.train.config.reading import config_sha256
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.batches import Part
from e2e_deploy.train.run.best import Best, BestWeights
from e2e_deploy.train.start import Start
from e2e_deploy.train.step.step_report import StepReport

RECENT_STEPS = 50


class RecentDirection:
    """Which way depth pointed in the training images of the last steps, for runs without held-out pictures."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=RECENT_STEPS)

    def add(self, report: StepReport) -> None:
        """Count the images of a step that have a usable truth."""
        self._counts.append((report.num_negative, report.num_images - report.num_degenerate))

    def recall(self, earlier: Iterable[Mapping[str, Any]], step: int) -> None:
        """Count what the log says of the steps before ``step``, which a run goes on from."""
        for entry in earlier:
            if "num_images" in entry and entry["step"] > step - RECENT_STEPS:
                usable = entry["num_images"] - entry["num_degenerate"]
                self._counts.append((entry["num_negative"], usable))

    def problem(self) -> str | None:
        """A sentence if too many fitted scales were negative, else None."""
        negative, images = (sum(counts[i] for counts in self._counts) for i in (0, 1))
        if negative <= MAX_NEGATIVE_SCALES * images:
            return None
        return f"the fitted scale was negative in {negative} of the last {images} training images"


def is_result(model: Path, *, steps: int, best: BestWeights | None, resolution: int) -> bool:
    """Whether the folder ``model`` holds what a run that has done ``steps`` would write.

    Where the best weights are asked for and their file is gone, those of the model cannot be made again.
    """
    try:
        trained = read_json(model / CARD).get("trained")
        index = read_json(model / "model_index.json")
    except InputError:
        return False
    facts = trained if isinstance(trained, dict) else {}
    selected = facts.get("selected")
    chosen = selected.get("step") if isinstance(selected, dict) else None
    wanted = chosen if best is not None else None
    if best is not None and best.best is not None:
        wanted = best.best.step
    return (
        facts.get("steps") == steps
        and chosen == wanted
        and index.get("default_processing_resolution") == resolution
    )


def distillation_of(start: Path) -> object:
    """What the card of a start says of how its small VAE was made, which every model that comes of it says too."""
    card = read_json(start / CARD) if (start / CARD).is_file() else {}
    trained = card.get("trained")
    return trained.get("distilled") if isinstance(trained, dict) else None


def training_facts(
    config: TrainConfig,
    start: Start,
    parts: Sequence[Part],
    *,
    steps: int,
    evaluation: Evaluation | None,
    best: Best | None,
    recent: RecentDirection,
) -> tuple[Mapping[str, Any], str]:
    """The facts, plain JSON values without a path of this machine, and the note, empty when there is nothing to say.

    Args:
        config: of the run.
        start: what it began from.
        parts: the data sets of the mix.
        steps: done in all.
        evaluation: held-out pictures after the last step.
        best: the evaluation of the weights that were chosen, where those are not the last.
        recent: of the last steps.
    """
    kinds = [kind.name for kind in start.model.kinds]
    values: dict[str, float] | None = None
    if best:
        values, problem, note = best.values, None, ""  # with a problem it would not be chosen
    elif evaluation:
        values, problem, note = evaluation.values(), evaluation.problem, evaluation.note
    else:
        problem = recent.problem()
        note = NOTES.get(kinds[0], "")
    facts = {
        "steps": steps,
        "selected": {"step": best.step, "by": criterion_of(kinds)} if best else "last",
        "start": Path(start.checkpoint.id).name,
        "pretrained": asdict(config.pretrain) if config.pretrain else None,
        "start_sha256": start.checkpoint.sha256(),
        "distilled": distillation_of(start.checkpoint.path),
        "data": [
            {
                "name": part.dataset.spec.name,
                "split": part.dataset.split,
                "images": len(part.dataset),
                "left_out": dict(part.dataset.left_out),
                "ratio": part.weight,
                "size": part.size,
            }
            for part in parts
        ],
        "config_sha256": config_sha256(config),
        "evaluation": values,
        "problem": problem,
    }
    return facts, note if problem else ""
