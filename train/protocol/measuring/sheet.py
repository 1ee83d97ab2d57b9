"""The worst images of an evaluation as one picture: rgb, truth and prediction of each.

Knows: which are worst, captions. Does not know: where the picture goes.
"""

from collections.abc import Sequence

import numpy as np

from e2e_deploy.names import ResultKind
from e2e_deploy.train.accuracy import Predict, target_of
from e2e_deploy.train.pictures import ROW_WIDTH, Picture, captioned_rows, comparison_row
from e2e_deploy.train.protocol.measuring.measure import Samples
from e2e_deploy.train.protocol.measuring.rows import Row

NUM_WORST = 10


def worst_rows(rows: Sequence[Row], kind: ResultKind) -> list[tuple[float, Row]]:
    """The rows with the largest AbsRel or mean angle and that number, worst first."""
    name = "mean_deg" if kind == "normals" else "abs_rel"
    measured = [(row.metrics[name], row) for row in rows if row.metrics is not None]
    return sorted(measured, key=lambda pair: (-pair[0], pair[1].index))[:NUM_WORST]


def worst_sheet(
    title: str, samples: Samples, rows: Sequence[Row], kind: ResultKind, predict: Predict
) -> Picture:
    """uint8 RGB: a row of rgb | truth | prediction for each of the worst images, which are predicted again."""
    pictures, captions = [], []
    form = "{:.2f} degrees" if kind == "normals" else "AbsRel {:.4f}"
    for badness, row in worst_rows(rows, kind):
        sample = samples.read(row.index)
        target, valid = target_of(sample, kind)
        prediction = np.asarray(predict(sample.rgb))
        step = max(1, 3 * valid.shape[1] // ROW_WIDTH)
        pictures.append(
            comparison_row(
                sample.rgb[::step, ::step],
                target[::step, ::step],
                prediction[::step, ::step],
                valid[::step, ::step],
                kind,
            )
        )
        captions.append(f"{form.format(badness)}  {title}  {row.picture}")
    return captioned_rows(pictures, captions)
