"""Published accuracy of the field's methods on the protocol's sets, as printed, each row with its source.

Knows: numbers and where they come from. Does not know: files, models, how a number is computed, how a row is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from e2e_deploy.names import Measure, SetName

Pair = tuple[float, float | None]
"""Depth: AbsRel and delta1, both in per cent. Normals: mean error in degrees and the share below 11.25 degrees in
per cent. The second is None where the source has only the first."""

COLUMNS: dict[Measure, tuple[SetName, ...]] = {
    "depth": ("nyuv2", "kitti", "eth3d", "scannet", "diode"),
    "normals": ("nyuv2", "scannet", "ibims", "sintel"),
}
"""The columns of the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One method in one published table."""

    measure: Measure
    method: str
    values: dict[SetName, Pair]
    """By set; a set that the source leaves out is not here."""
    source: str
    """Paper and table, or README and commit."""
    steps: int | None = None
    """Denoising steps; None where the method has none or the source does not say."""
    ensemble: int | None = None
    """Predictions averaged for one result."""
    time_s: float | None = None
    """Seconds for one picture, as the source says."""
    timed_on: str = ""
    """The GPU and the picture of ``time_s``."""
    trained_on: str = ""
    """Pictures that the method was trained on, where the source says it."""
    differs: str = ""
    """What was measured otherwise than by the E2E-FT protocol, in words; empty where nothing is known to differ."""
    note: str = ""
    """What else to know about the row."""

    @property
    def runs(self) -> str:
        """Steps and ensemble as ``50x10``, or a dash."""
        return f"{self.steps}x{self.ensemble}" if self.steps else "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """Rows of one source, a line each: method | steps x ensemble | seconds | a pair a set | pictures trained on | note.

    A pair is ``5.2/96.6``, ``5.2`` alone, or ``-``. Trailing columns may be missing.
    """

    measure: Measure
    source: str
    rows: str
    timed_on: str = ""
    differs: str = ""

    def parsed(self) -> Iterator[PublishedRow]:
        sets = COLUMNS[self.measure]
        for line in self.rows.strip().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            method, runs, seconds, numbers, trained_on, note = (*cells, "", "")[:6]
            steps, _, ensemble = runs.partition("x")
            pairs = [_pair(text) for text in numbers.split()]
            yield PublishedRow(
                measure=self.measure,
                method=method,
                values={s: p for s, p in zip(sets, pairs, strict=True) if p is not None},
                source=self.source,
                steps=int(steps) if ensemble else None,
                ensemble=int(ensemble) if ensemble else None,
                time_s=float(seconds) if seconds else None,
                timed_on=self.timed_on if seconds else "",
                trained_on=trained_on,
                differs=self.differs,
                note=note,
            )


def _pair(text: str) -> Pair | None:
    if text == "-":
        return None
    first, _, second = text.partition("/")
    return float(first), float(second) if second else None


PAPER = "E2E-FT (arXiv 2409.11355v2)"
README = "README of VisualComputingInstitute/diffusion-e2e-ft at 4ff5aad"
LOTUS_2 = "Lotus-2's paper"
_RTX_4090 = "RTX 4090, one picture of 576x768"

_TABLES = (
    _Table(
        measure="depth",
        source=f"{PAPER}, Table 1",
        timed_on=_RTX_4090,
        rows="""
        Marigold | 50x10 | 24 | 5.5/96.4 9.9/91.6 6.5/96.0 6.4/95.1 30.8/77.3
        Marigold | 50x1 | 3.1 | 6.0/95.9 10.5/90.4 7.1/95.1 6.9/94.5 31.0/77.2
        Marigold LCM | 4x5 | 1.8 | 6.2/95.6 9.9/91.7 6.9/95.5 7.0/94.5 30.9/77.6
        Marigold LCM | 1x1 | 0.121 | 6.5/95.4 10.7/89.9 7.5/94.5 7.6/93.8 31.5/76.3
        Marigold + DDIM fix | 1x1 | 0.121 | 5.7/96.2 10.8/89.6 6.9/95.5 6.6/95.2 31.1/76.8
        Marigold + E2E FT | 1x1 | 0.121 | 5.2/96.6 9.6/91.9 6.2/95.9 5.8/96.2 30.2/77.9 | 74K
        SD + E2E FT | 1x1 | 0.121 | 5.4/96.5 9.6/92.1 6.4/95.9 5.8/96.5 30.3/77.6 | 74K
        """,
    ),
    _Table(
        measure="depth",
        source=f"{PAPER}, Table A-3",
        timed_on=_RTX_4090,
        rows="""
        GeoWizard | 50x10 | 72 | 5.2/96.6 9.7/92.1 6.4/96.1 6.1/95.3 29.7/79.2 | 278K | GeoWizard's own numbers
        GeoWizard, reproduced | 50x10 | 72 | 5.7/96.2 14.4/82.0 7.5/94.3 6.1/95.8 31.4/77.1 | 278K
        GeoWizard + DDIM fix | 1x1 | 0.254 | 5.8/96.1 13.3/84.7 7.8/94.3 6.2/95.7 32.0/76.0 | 278K
        GeoWizard + E2E FT | 1x1 | 0.254 | 5.6/96.1 9.8/91.4 6.3/95.7 5.9/96.2 30.6/77.9 | 74K
        """,
    ),
    _Table(
        measure="depth",
        source=f"{PAPER}, Table A-4",
        timed_on=_RTX_4090,
        differs="aligned in log space",
        rows="""
        DepthFM | 4x6 | 1.67 | 6.5/95.6 8.3/93.4 - - 22.5/80.0 | | DepthFM's own numbers
        DepthFM, reproduced | 4x6 | 1.67 | 6.9/95.4 11.4/88.1 6.5/96.2 8.1/92.5 25.0/78.3
        DepthFM, reproduced | 1x1 | 0.132 | 7.5/95.0 11.6/87.5 6.7/96.0 8.3/92.3 25.3/77.9
        """,
    ),
    _Table(
        measure="depth",
        source=f"{PAPER}, Table 5",
        rows="""
        MiDaS | | | 11.1/88.5 23.6/63.0 18.4/75.2 12.1/84.6 33.2/71.5 | 2M
        LeReS | | | 9.0/91.6 14.9/78.4 17.1/77.7 9.1/91.7 27.1/76.6 | 354K
        Omnidata v1 | | | 7.4/94.5 14.9/83.5 16.6/77.8 7.5/93.6 33.9/74.2 | 12.2M
        HDN | | | 6.9/94.8 11.5/86.7 12.1/83.3 8.0/93.9 24.6/78.0 | 300K
        DPT | | | 9.8/90.3 10.0/90.1 7.8/94.6 8.2/93.4 18.2/75.8 | 1.39M
        Depth Anything | | | 4.3/98.1 7.6/94.7 12.7/88.2 - 6.6/95.2 | 62M
        Depth Anything v2 | | | 4.4/97.9 7.5/94.8 13.2/86.2 - 6.5/95.4 | 62M
        Metric3D | | | 5.0/96.6 5.8/97.0 6.4/96.5 7.4/94.1 22.4/80.5 | 8M
        Metric3D v2 | | | 4.3/98.1 4.4/98.2 4.2/98.3 - 13.6/89.5 | 16M
        """,
    ),
    _Table(
        measure="depth",
        source=f"{LOTUS_2}, Table I",
        differs="measured again for Lotus-2: ETH3D at 768, DIODE at 640",
        rows="""
        SD + E2E FT | 1x1 | | 5.4/96.5 9.6/92.1 6.4/95.9 5.8/96.5 30.3/77.6
        Lotus-G | | | 5.4/96.8 8.5/92.2 5.9/97.0 5.9/95.7 22.9/72.9
        Lotus-D | | | 5.1/97.2 8.1/93.1 6.1/97.0 5.5/96.5 22.8/73.8
        Lotus-2 (FLUX) | | | 4.1/97.6 6.7/94.5 4.6/98.1 4.2/97.6 22.1/75.2
        DepthFM-ID | | | 5.5/96.3 8.9/91.3 5.8/96.2 6.3/95.4 21.2/80.0
        MoGe | | | 3.6/97.9 7.3/95.2 8.4/93.0 3.5/98.4 36.3/71.2
        MoGe-2 | | | 3.6/98.0 11.8/89.2 16.6/81.5 3.5/98.2 39.3/70.0
        Depth Anything v2 | | | 4.5/97.9 7.4/94.6 13.1/86.5 4.2/97.8 26.5/73.4
        DepthMaster | | | 5.0/97.2 8.2/93.7 5.3/97.4 5.5/96.7 21.5/77.6
        FE2E | | | - 6.6/96.0 3.8/98.7 - -
        """,
    ),
    _Table(
        measure="depth",
        source="DepthMaster's tables",
        differs="measured again for DepthMaster",
        rows="GenPercept | | | 5.6/96.0 9.9/90.4 6.2/95.8 6.2/96.1 35.7/75.6 | | ScanNet is flagged in the source",
    ),
    _Table(
        measure="depth",
        source="Lotus's paper",
        differs="measured again for Lotus: ETH3D at 768",
        rows="GenPercept | | | - 13.0/84.2 7.0/95.6 - -",
    ),
    _Table(
        measure="depth",
        source="Marigold v1-1 (arXiv 2505.09358)",
        differs="processing sizes of Marigold v1-1",
        timed_on="RTX 3090, 768x768",
        rows="""
        Marigold v1-1 | 1x1 | 0.568 | 5.9/96.1 - - - -
        Marigold v1-1 | 4x10 | | 5.5/96.4 - - - -
        """,
    ),
    _Table(
        measure="depth",
        source="MoGe's benchmark, a third party's survey",
        differs="MoGe's benchmark: other pictures, masks and sizes",
        rows="""
        SD or Marigold + E2E FT | 1x1 | | 4.91/97.43 7.78/95.06 6.49/95.13 - 8.59/92.3
        Marigold | | | 5.20/97.3 10.2/90.2 - - -
        GenPercept | | | 4.93/97.5 8.60/93.7 - - -
        Lotus | | | 8.26 - - - -
        MoGe-2 | | | 3.42/98.5 4.80/98.2 - - -
        Depth Anything 3 | | | 3.88/98.3 7.24/95.6 - - -
        Pixel-Perfect Depth | | | 5.61 22.2 - - -
        """,
    ),
    _Table(
        measure="normals",
        source=f"{PAPER}, Tables 2, 3 and 6",
        timed_on=_RTX_4090,
        rows="""
        Marigold | 50x10 | | 18.8/55.9 17.7/58.8 18.4/64.3 39.1/14.9
        Marigold + DDIM fix | 1x1 | 0.121 | 17.4/56.5 16.8/57.6 18.1/62.9 37.1/15.7
        Marigold + E2E FT | 1x1 | 0.121 | 16.2/61.4 14.7/66.0 15.8/69.9 33.5/21.5 | 74K
        SD + E2E FT | 1x1 | 0.121 | 16.5/60.4 14.7/66.1 16.1/69.7 33.5/22.3 | 74K
        GeoWizard | 50x10 | 72 | 17.0/56.5 15.4/61.6 13.0/65.3 - | 278K | GeoWizard's own numbers
        GeoWizard, reproduced | 50x10 | 72 | 19.1/49.5 17.3/53.7 19.5/61.6 40.4/13.2 | 278K
        GeoWizard + DDIM fix | 1x1 | 0.254 | 17.0/54.1 15.5/59.3 18.3/62.5 35.9/15.6 | 278K
        GeoWizard + E2E FT | 1x1 | 0.254 | 16.1/60.7 15.3/63.6 16.2/69.4 33.4/22.4 | 74K
        Omnidata v1 | | | 23.1/45.8 22.9/47.4 19.0/62.1 41.5/11.4
        Omnidata v2 | | | 17.2/55.5 16.2/60.2 18.2/63.9 40.5/14.7
        DSINE | | | 16.4/59.6 16.2/61.0 17.1/67.4 34.9/21.5
        Metric3D v2 | | | 13.3/66.4 - 19.6/69.7 -
        """,
    ),
    _Table(
        measure="normals",
        source=README,
        timed_on=_RTX_4090,
        rows="""
        Marigold + E2E FT | 1x1 | 0.121 | 16.2 14.7 15.8 33.5
        SD + E2E FT | 1x1 | 0.121 | 16.5 15.3 16.1 33.5 | | its ScanNet value is GeoWizard's in the paper
        GeoWizard + E2E FT | 1x1 | 0.254 | 16.1 14.7 16.2 33.4 | | its ScanNet value is SD's in the paper
        """,
    ),
    _Table(
        measure="normals",
        source=f"{LOTUS_2}, Table II",
        differs="measured again for Lotus-2",
        rows="""
        SD + E2E FT | 1x1 | | - 14.7/66.1 - -
        Lotus-D | | | 16.2/59.8 14.7/64.0 17.1/66.4 32.3/22.4
        Lotus-G | | | 16.5/59.4 15.1/63.9 17.2/66.2 33.6/21.0
        Lotus-2 (FLUX) | | | 16.9/59.0 14.2/66.8 15.4/70.4 30.3/27.6
        GenPercept | | | 18.2/56.3 17.7/58.3 18.2/64.0 37.6/16.2
        StableNormal | | | 18.6/53.5 17.1/57.4 18.2/65.0 36.7/14.1
        MoGe-2 | | | 14.7/62.3 12.8/68.4 14.7/70.4 29.3/24.8
        """,
    ),
    _Table(
        measure="normals",
        source="README of Stable-X/StableNormal at 594b934",
        differs="StableNormal's own evaluation",
        rows="""
        StableNormal | | | 19.7/53.0 18.1/56.0 17.2/66.7 - | | DIODE indoor: 13.7/63.4
        StableNormal-turbo | | | 18.8/53.7 17.4/58.6 - -
        """,
    ),
)

ROWS: tuple[PublishedRow, ...] = tuple(row for table in _TABLES for row in table.parsed())
"""All rows, in the order of the tables."""


def rows_for(measure: Measure, *, same_protocol: bool = False) -> list[PublishedRow]:
    """The published rows of depth or of normals, as printed in their tables.

    Args:
        measure: depth or normals.
        same_protocol: only those that were measured by the E2E-FT protocol as far as is known.
    """
    return [row for row in ROWS if row.measure == measure and not (same_protocol and row.differs)]


def disagreements(rows: Sequence[PublishedRow]) -> list[str]:
    """Where two of ``rows`` have different numbers for one method, with the same steps, on one set; a sentence each."""
    sentences = []
    for index, row in enumerate(rows):
        for other in rows[index + 1 :]:
            if (row.measure, row.method, row.runs) != (other.measure, other.method, other.runs):
                continue
            for name in COLUMNS[row.measure]:
                one, two = row.values.get(name), other.values.get(name)
                if one and two and one[0] != two[0]:
                    sentences.append(
                        f"{row.method} on {name}: {one[0]:g} in {row.source}, {two[0]:g} in {other.source}"
                    )
    return sentences
