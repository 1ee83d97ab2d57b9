"""Own results among the published ones, as a table for a terminal or in Markdown.

Knows: columns, order, footnotes. Does not know: where own results come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from e2e_deploy.names import Measure, SetName
from e2e_deploy.system.text import clean
from e2e_deploy.train.protocol.published import (
    COLUMNS,
    Pair,
    PublishedRow,
    disagreements,
    rows_for,
)

TableStyle = Literal["text", "markdown"]

UNITS: dict[Measure, str] = {
    "depth": "AbsRel / delta1, both in per cent: lower / higher is better",
    "normals": "mean error in degrees / share below 11.25 degrees in per cent: lower / higher is better",
}
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRow:
    """What one model got here."""

    method: str
    """Its name, and where needed the backend and precision."""
    values: Mapping[SetName, Pair]
    """By set, in the units of the published tables (``UNITS``)."""
    missing: Mapping[SetName, str] = field(default_factory=dict)
    """Why a set was not measured, in a few words: data not here."""
    runs: str = "-"
    """Steps and ensemble as ``1x1``."""
    time_s: float | None = None
    """Seconds a picture, as measured here."""


def shown_pair(pair: Pair | None) -> str:
    """``5.2/96.6``: one decimal, two where the second is not zero; a dash for None."""
    return "-" if pair is None else "/".join(_number(x) for x in pair if x is not None)


def shown_time(seconds: float | None) -> str:
    """Seconds, or milliseconds below one second; a dash for None."""
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], style: TableStyle) -> list[str]:
    """The lines of a table; in Markdown cells are given escaped."""
    if style == "markdown":
        return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def escaped(text: str, limit: int = 60) -> str:
    """Text as a Markdown table may hold it: no mark of Markdown or HTML works."""
    return "".join(f"\\{c}" if c in "\\`*_[]|<>#&~" else c for c in clean(text, limit))


def published_table(
    measure: Measure,
    own: Sequence[OwnRow],
    *,
    style: TableStyle = "text",
    same_protocol: bool = True,
) -> str:
    """Own rows among the published ones, best first, with sources and what they disagree on below.

    Rows stand in the order of their first number on the first set that an own row has a number for; those without one
    come last.

    Args:
        measure: depth or normals.
        own: rows of this machine; they are marked.
        style: text for a terminal, or markdown.
        same_protocol: leave out what was measured by another protocol; else it is said below the table.
    """
    published = rows_for(measure, same_protocol=same_protocol)
    names = COLUMNS[measure]
    measured = [name for name in names if any(name in row.values for row in own)]
    lead = measured[0] if measured else names[0]
    rows: list[OwnRow | PublishedRow] = [*own, *published]
    rows.sort(key=lambda row: row.values[lead][0] if lead in row.values else float("inf"))
    sources = list(dict.fromkeys(row.source for row in published))
    head = ["method", "steps", "time", *names, "source"]
    cells = [_cells(row, names, sources, style) for row in rows]
    body = table_lines(head, cells, style)
    differs = {row.source: row.differs for row in published}
    notes = [
        f"{UNITS[measure]}.",
        *(f"{name}: {NOT_MEASURED}: {reason}" for name, reason in _missing(own).items()),
        *(
            f"[{i}] {source}" + (f"; {differs[source]}" if differs[source] else "")
            for i, source in enumerate(sources, start=1)
        ),
        *(
            f"{row.method} [{sources.index(row.source) + 1}]: {row.note}"
            for row in published
            if row.note
        ),
        *(f"sources disagree: {sentence}" for sentence in disagreements(published)),
    ]
    if style == "markdown":
        return "\n".join([*body, "", *(f"- {note}" for note in notes)])
    return "\n".join([*body, "", *notes])


def _cells(
    row: OwnRow | PublishedRow, names: Sequence[SetName], sources: Sequence[str], style: TableStyle
) -> list[str]:
    if isinstance(row, PublishedRow):
        values = [shown_pair(row.values.get(name)) for name in names]
        source = f"[{sources.index(row.source) + 1}]"
        return [row.method, row.runs, shown_time(row.time_s), *values, source]
    method = escaped(row.method) if style == "markdown" else clean(row.method, 60)
    values = [shown_pair(row.values[n]) if n in row.values else NOT_MEASURED for n in names]
    cells = [method, row.runs, shown_time(row.time_s), *values, "here"]
    if style == "markdown":
        return [f"**{cell}**" for cell in cells]
    return [f"> {cells[0]}", *cells[1:]]


def _missing(own: Sequence[OwnRow]) -> dict[str, str]:
    return {
        clean(name): clean(reason)
        for row in own
        for name, reason in row.missing.items()
        if not any(name in other.values for other in own)
    }


def _number(value: float) -> str:
    text = f"{value:.2f}"
    return text[:-1] if text.endswith("0") else text
