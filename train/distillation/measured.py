"""How good a distilled model is on held-out pictures: against its teacher, and the truth where there is one.

Knows: which parts of models make a result together. Does not know: how they learned.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import DataError
from e2e_deploy.kinds import Kind
from e2e_deploy.metrics import aligned_abs_rel, angular_error_deg
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.names import ResultKind
from e2e_deploy.train.accuracy import Measurement, spread_indices
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.distillation.sources import Pictures, Rgb, Unreadable, window
from e2e_deploy.train.run.heldout import HeldOut

Found = dict[str, float]
Result = npt.NDArray[np.float32]


class Chain:
    """A frame's result by the encoder of one model, the UNet of another and the decoder of a third."""

    def __init__(
        self, encoder: SingleStepModel, unet: SingleStepModel, decoder: SingleStepModel
    ) -> None:
        self._encoder, self._unet, self._decoder = encoder, unet, decoder

    def __call__(self, frame: Rgb) -> Result:
        """[H, W] in [0, 1] or [H, W, 3] of uint8 [H, W, 3], whose sides are multiples of the stride; float32."""
        device = next(self._unet.unet.parameters()).device
        rgb = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(device)
        with torch.no_grad():
            rgb = rgb.float() / 127.5 - 1.0
            context = self._unet.context(rgb)
            x0 = self._unet.predict_x0(self._encoder.encode(rgb), context_NLC=context)
            result = self._decoder.read(self._decoder.decode(x0))[0].permute(1, 2, 0).cpu().numpy()
        return result[..., 0] if result.shape[2] == 1 else result


class HeldOutPictures:
    """What a distillation is measured on: the held-out split of the config, or pictures that nothing learns from.

    Attributes:
        unreadable: those that were not measured.

    Raises:
        DataError, UsageError: as of ``HeldOut``.
    """

    def __init__(self, config: TrainConfig, pictures: Pictures, held: list[int]) -> None:
        assert config.distil is not None
        self._pictures, self._held, self._size_hw = pictures, held, config.distil.size
        self._on_bad = config.run.on_bad
        self._data = HeldOut(config.eval, config.task) if config.eval else None
        self.unreadable = Unreadable()

    def measure(self, teacher: SingleStepModel, chain: Chain | None = None) -> Found:
        """Mean difference of ``chain`` from the teacher, and its accuracy by the published protocol.

        Without a chain the teacher's accuracy.

        Raises:
            DataError: none can be read, or one cannot and ``run.on_bad`` is stop.
            E2EDeployError: a result is NaN.
        """
        (kind,) = teacher.kinds
        measurement = self._measurement(kind.name)
        teaching, differences = Chain(teacher, teacher, teacher), list[float]()
        for index, sample in self._samples():
            rgb = sample if isinstance(sample, np.ndarray) else sample.rgb
            wanted = teaching(rgb)
            result = wanted if chain is None else chain(rgb)
            differences.append(_difference(result, wanted, kind))
            if measurement is not None and isinstance(sample, Sample):
                measurement.add(index, sample, partial(_as_it_is, result))
        if not differences:
            raise DataError("none of the held-out pictures can be read")
        found = {} if measurement is None else measurement.result().values()
        if chain is None:
            return found
        name = {"vectors": "mean_deg", "distance": "abs_rel"}.get(kind.form, "mae")
        return {f"{name}_from_teacher": float(np.mean(differences)), **found}

    def _measurement(self, kind: ResultKind) -> Measurement | None:
        if self._data is None:
            return None
        spec = self._data.dataset.spec
        return Measurement(kind, depth_range_m=(max(spec.min_m, 1e-5), spec.max_m))

    def _samples(self) -> Iterator[tuple[int, Sample | Rgb]]:
        """Number and picture, with its truth where there is one; what cannot be read is left out."""
        data, indices = self._data, self._held
        if data is not None:
            indices = [*spread_indices(len(data), data.config.num_images)]
        for index in indices:
            try:
                if data is not None:
                    yield index, data.read(index)
                else:
                    yield index, window(self._pictures.read(index), self._size_hw)
            except DataError as error:
                if self._on_bad == "stop":
                    raise
                self.unreadable.add(index, error)


def _difference(result: Result, wanted: Result, kind: Kind) -> float:
    """Angle in degrees; error after the best scale and shift over the value, of distances; or the error itself."""
    if kind.form == "vectors":
        everywhere = np.ones(result.shape[:2], np.bool_)
        return float(angular_error_deg(result, wanted, everywhere).mean())
    if kind.form == "distance":
        return aligned_abs_rel(result, wanted)
    return float(np.abs(result - wanted).mean())


def _as_it_is(result: Result, _frame: Rgb) -> Result:
    return result
