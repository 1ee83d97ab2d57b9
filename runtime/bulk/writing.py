"""The stage that encodes and writes: results at the pictures' own size, as ``run`` writes them."""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.kinds import Kind
from e2e_deploy.names import BulkFormat
from e2e_deploy.runtime.backends.layout import Result, by_kind, changed
from e2e_deploy.runtime.bulk.outputs.encoded import EncodedPicture, Made
from e2e_deploy.runtime.bulk.outputs.layouts import LAYOUTS
from e2e_deploy.runtime.bulk.outputs.output import Output
from e2e_deploy.runtime.bulk.parcel import Done, Parcel, Table, from_table, to_table
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.sinks.sink import known_pixels
from e2e_deploy.runtime.sources.source import SourceFrame

ENCODE = "encode"
Writing = tuple[Manifest, tuple[int, int]]
"""Of one bundle: its manifest, and the frame size of its engine."""


class ShardWriter:
    """Writes the files of shards to ``out``, whole and there to stay before it says that they are done.

    Args:
        out: what every machine of a cluster sees.
        writings: one a bundle.
        layout: one of BULK_FORMATS.
    """

    def __init__(self, out: Output, writings: Sequence[Writing], layout: BulkFormat) -> None:
        self._out, self._writings, self._layout = out, writings, LAYOUTS[layout]

    def __call__(self, table: Table) -> Table:
        """Rows of results as rows of what was written."""
        return to_table([self._written(parcel) for parcel in from_table(table)])

    def _written(self, parcel: Parcel) -> Parcel:
        start = time.perf_counter()
        encoded = []
        for done in parcel.done:
            results, unknown = self._encoded(done)
            parcel.unknown += unknown
            encoded.append(results)
        if encoded:
            self._out.write(self._layout.files(parcel.shard, encoded))
        parcel.written, parcel.done = len(parcel.done), []
        parcel.seconds[ENCODE] = time.perf_counter() - start
        return parcel

    def _encoded(self, done: Done) -> tuple[EncodedPicture, int]:
        """One picture's results as its layout encodes them, and how many of them hold no number."""
        item, unknown = done.item, 0
        results = {}
        moment = done.moment
        frame = SourceFrame(
            np.empty((*done.hw, 0), np.uint8),
            item.number,
            moment.pts_s,
            item.name,
            stamp_ns=moment.stamp_ns,
            frame_id=moment.frame_id,
        )
        for (manifest, engine_hw), outcome in zip(self._writings, done.results, strict=True):
            fit = Fit(done.hw, engine_hw)
            kinds = manifest.kinds
            for kind, result in by_kind(kinds, changed(kinds, outcome, partial(_fitted, fit))):
                unknown += not known_pixels(result).any()
                made = Made(manifest, kind, frame, result, item.is_video)
                results[kind.output] = self._layout.encode(made)
        return EncodedPicture(item, frame, results), unknown


def _fitted(fit: Fit, kind: Kind, result: Result) -> Result:
    return fit.to_source(result, kind.form)
