"""Results side by side as one HTML file, which loads nothing and runs nothing.

Knows: HTML. Does not know: which results belong together, files. Every text from a result is escaped.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from e2e_deploy.names import SetName
from e2e_deploy.train.comparison.comparison import Cell, Comparison, Line, Section, told
from e2e_deploy.train.comparison.strips import strips
from e2e_deploy.train.comparison.text import TITLES, remarks, shown_delta
from e2e_deploy.train.protocol.published import (
    COLUMNS,
    Pair,
    PublishedRow,
    disagreements,
    rows_for,
)
from e2e_deploy.train.protocol.published_table import NOT_MEASURED, UNITS, shown_pair, shown_time

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is loaded and no script runs, whatever a name should hold."""

SMALLEST = 0.005
"""A difference below it is neither better nor worse: the published tables could not show it."""


def results_page(comparison: Comparison) -> str:
    """The whole page, HTML 5 in UTF-8."""
    models = {line.contender.key() for section in comparison.sections for line in section.lines}
    num = len(comparison.results)
    head = (
        f"{num} result{'s' * (num != 1)} of {len(models)} model{'s' * (len(models) != 1)}, by the protocol of E2E-FT "
        "(arXiv 2409.11355). A reference is the float32 result of the same weights on the same pictures."
    )
    look = (files("e2e_deploy.train.comparison") / "page.css").read_text(encoding="utf-8")
    body = [f"<header><h1>Results</h1><p>{escape(head)}</p></header>", "<main>"]
    for section in comparison.sections:
        body += _section(section)
    body += ["</main>", _footer(comparison)]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Results</title><style>{look}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _section(section: Section) -> Iterable[str]:
    measure = section.measure
    yield f'<section id="{measure}"><h2>{TITLES[measure]}</h2><p>{escape(UNITS[measure])}.</p>'
    for line, label in zip(section.lines, section.labels, strict=True):
        for problem in line.problems:
            yield f'<p class="worth">{escape(label)}: these numbers are worthless: {escape(problem)}</p>'
    for group in section.groups:
        head = ["model", "as run", "per image", *section.sets]
        rows = (_own_row(line, section.sets) for line in group.lines)
        yield f'<div class="card"><h3>{escape(group.title)}</h3>{_table(head, rows)}</div>'
    yield (
        '<div class="card"><h3>Among the published rows</h3><p class="legend">'
        '<span><i class="dot ours"></i>here</span><span><i class="dot seed"></i>E2E-FT, published</span>'
        f'<span><i class="dot theirs"></i>others, published</span></p>{strips(section)}'
    )
    for title, same, state in (
        ("By the same protocol", True, " open"),
        ("With rows of other protocols", False, ""),
    ):
        table = _published(section, same_protocol=same)
        yield f"<details{state}><summary>{title}</summary>{table}</details>"
    yield "</div>"
    yield _listed("What differs from the published evaluation", remarks(section))
    yield _listed("Where sources disagree", disagreements(rows_for(measure)))
    yield "</section>"


def _own_row(line: Line, names: Sequence[SetName]) -> str:
    contender = line.contender
    cells = [
        f'<td class="model">{escape(contender.model)}</td>',
        f'<td><span class="chip">{escape(contender.backend)}</span> <span class="chip">'
        f'{escape(contender.precision)}</span><span class="small">{escape(told(contender))}</span>'
        f'<span class="small">{escape(line.hardware)}</span></td>',
        f"<td>{escape(shown_time(line.time_s))}</td>",
        *(_cell(line.cells.get(name)) for name in names),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return f'<td class="empty">{NOT_MEASURED}</td>'
    result = cell.result
    first, second = (shown_pair((x, None)) for x in result.pair())
    parts = [f'<span class="first">{first}</span> <span class="second">/ {second}</span>']
    if result.problem:
        parts.append('<span class="delta worse">worthless</span>')
    elif cell.is_reference:
        parts.append('<span class="delta">reference</span>')
    elif cell.delta is None:
        parts.append('<span class="delta">no reference</span>')
    else:
        parts.append(_delta(cell.delta))
        if not cell.same_input:
            parts.append('<span class="small">of another input</span>')
    speed = "" if cell.speed is None else f", {cell.speed:.2f}x as fast"
    parts.append(f'<span class="small">{shown_time(result.ms_per_image / 1e3)}{speed}</span>')
    if result.num_images != result.num_published:
        parts.append(
            f'<span class="small">{result.num_images} of {result.num_published} images</span>'
        )
    return f"<td>{''.join(parts)}</td>"


def _delta(delta: Pair) -> str:
    change = delta[0]
    kind = "" if abs(change) < SMALLEST else " worse" if change > 0 else " better"
    return f'<span class="delta{kind}">{shown_delta(delta)}</span>'


def _published(section: Section, *, same_protocol: bool) -> str:
    names = COLUMNS[section.measure]
    published = rows_for(section.measure, same_protocol=same_protocol)
    lead = section.sets[0]
    sources = list(dict.fromkeys(row.source for row in published))
    ranked: list[tuple[float, str]] = [
        (
            row.values[lead][0] if lead in row.values else float("inf"),
            _published_row(row, names, sources.index(row.source) + 1),
        )
        for row in published
    ]
    for row in section.own_rows():
        values = (shown_pair(row.values[n]) if n in row.values else NOT_MEASURED for n in names)
        texts = [row.method, row.runs, shown_time(row.time_s), *values, "here"]
        first = row.values[lead][0] if lead in row.values else float("inf")
        ranked.append((first, f'<tr class="own">{_cells(texts)}</tr>'))
    ranked.sort(key=lambda pair: pair[0])
    head = ["method", "steps", "time", *names, "source"]
    notes = [
        f"[{i}] {source}"
        + next((f"; {r.differs}" for r in published if r.source == source and r.differs), "")
        for i, source in enumerate(sources, start=1)
    ]
    return _table(head, (text for _, text in ranked)) + "".join(
        f"<p>{escape(n)}</p>" for n in notes
    )


def _published_row(row: PublishedRow, names: Sequence[SetName], source: int) -> str:
    values = [shown_pair(row.values.get(name)) for name in names]
    texts = [row.method, row.runs, shown_time(row.time_s), *values, f"[{source}]"]
    noted = f' title="{escape(row.note)}"' if row.note else ""
    return f'<tr class="other"{noted}>{_cells(texts)}</tr>'


def _cells(texts: Iterable[str]) -> str:
    marked = ((text, ' class="empty"' if text == NOT_MEASURED else "") for text in texts)
    return "".join(f"<td{mark}>{escape(text)}</td>" for text, mark in marked)


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    titles = "".join(f"<th>{escape(text)}</th>" for text in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _listed(title: str, texts: Sequence[str]) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<details><summary>{escape(title)} ({len(texts)})</summary><ul>{items}</ul></details>"


def _footer(comparison: Comparison) -> str:
    lines = []
    for result in comparison.results:
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        name = f"{result.contender.label()}, {result.measure} on {result.set}"
        lines.append(f"{name}: {result.measured_at}; {result.hardware}; {versions}")
    return f"<footer>{_listed('When and with what', lines)}</footer>"
