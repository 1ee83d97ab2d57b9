"""The weights of a run that measured best on its held-out pictures, in one file.

Knows: which result is better, the file with the weights of the trained parts. Does not know: how a result is made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from torch import nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.packages import require
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import parse_json
from e2e_deploy.system.records import Limits, read_record
from e2e_deploy.train.accuracy import Evaluation, criterion_of
from e2e_deploy.train.config.settings import EvalConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best evaluation so far."""

    step: Annotated[int, Limits(0)]
    values: dict[str, float]
    """Its metrics, as ``Evaluation.values``."""
    measured_on: str
    """The pictures, as JSON; results on others cannot be compared."""


class BestWeights:
    """Keeps the best weights of ``parts`` in ``file``, and takes over what an earlier process of the run kept there.

    Args:
        file: safetensors, as large as the trained weights; replaced whole.
        parts: trained modules by name.
        config: of the held-out pictures.
        pictures: what they are, ``FolderDataset.fingerprint``.
        is_fresh: the run begins, so what lies in ``file`` is of another one.

    Attributes:
        best: None before the first result that counts.

    Raises:
        CheckpointError: the file is damaged.
    """

    def __init__(
        self,
        file: Path,
        parts: Mapping[str, nn.Module],
        config: EvalConfig,
        *,
        pictures: str,
        is_fresh: bool,
    ) -> None:
        self.file, self.parts = file, parts
        keys = ("root", "split", "num_images", "size")
        asked = {key: getattr(config, key) for key in keys}
        self._measured_on = json.dumps(asked | {"pictures": pictures})
        self.best: Best | None = None
        if is_fresh:
            file.unlink(missing_ok=True)
        elif file.exists():
            best = self._read_best()
            self.best = best if best.measured_on == self._measured_on else None

    def offer(self, step: int, result: Evaluation) -> bool:
        """Keep the weights as they are now if ``result``, measured at ``step``, is the best; returns whether it is.

        A result with a ``problem`` never is.

        Raises:
            E2EDeployError: the file cannot be written; the one before is whole.
        """
        values, criterion = result.values(), criterion_of(result.kinds)
        if result.problem or (self.best and values[criterion] >= self.best.values[criterion]):
            return False
        best = Best(step=step, values=values, measured_on=self._measured_on)
        weights = {
            f"{name}.{key}": value.contiguous()
            for name, part in self.parts.items()
            for key, value in part.state_dict().items()
        }
        tensors = require("safetensors.torch", "export")
        with whole_file(self.file) as partial:
            try:
                tensors.save_file(weights, partial, metadata={"best": json.dumps(asdict(best))})
            except require("safetensors", "export").SafetensorError as error:
                raise OSError(str(error)) from error  # the disk is full
        self.best = best
        return True

    def load(self) -> None:
        """Put the best weights into the parts.

        Raises:
            CheckpointError: the file is damaged or does not fit the parts.
        """
        try:
            weights = require("safetensors.torch", "export").load_file(self.file)
            for name, part in self.parts.items():
                prefix = f"{name}."
                part.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                )
        except (OSError, RuntimeError, require("safetensors", "export").SafetensorError) as error:
            raise self._damaged(str(error)) from error

    def _read_best(self) -> Best:
        safetensors = require("safetensors", "export")
        try:
            with safetensors.safe_open(self.file, framework="pt") as file:
                text = (file.metadata() or {}).get("best", "")
        except (OSError, safetensors.SafetensorError) as error:
            raise self._damaged(str(error)) from error
        best, problems = read_record(
            Best, parse_json(text.encode(), self.file, error=CheckpointError)
        )
        if best is None:
            raise self._damaged("; ".join(problems))
        return best

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file} cannot be used: {reason}; delete it to choose among the evaluations to come"
        )
