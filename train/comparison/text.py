"""Results side by side as text for a terminal, or in Markdown.

Knows: a row a model and its sets, and what stands below. Does not know: which results belong together.
"""

from collections.abc import Sequence

from e2e_deploy.names import SetName
from e2e_deploy.system.text import clean
from e2e_deploy.train.comparison.comparison import (
    Cell,
    Comparison,
    Group,
    Section,
    conditions,
    told,
)
from e2e_deploy.train.protocol.published import Pair
from e2e_deploy.train.protocol.published_table import (
    NOT_MEASURED,
    UNITS,
    TableStyle,
    escaped,
    published_table,
    shown_pair,
    shown_time,
    table_lines,
)

TITLES = {"depth": "Depth", "normals": "Normals"}
REFERENCE = "reference"


def comparison_text(
    comparison: Comparison, *, style: TableStyle = "text", published: bool = True
) -> str:
    """Every measure's results, what precision and backend cost, and the published rows they stand among.

    Args:
        comparison: what is shown.
        style: text for a terminal, or markdown.
        published: with the published tables.
    """
    parts = list[str]()
    for section in comparison.sections:
        parts += _section(section, style)
        if published:
            parts += [
                _heading(f"{TITLES[section.measure]} among the published rows", 3, style),
                published_table(section.measure, section.own_rows(), style=style),
            ]
    return "\n\n".join(parts)


def shown_delta(delta: Pair | None) -> str:
    """Both differences with their signs, three decimals; nothing for None."""
    if delta is None:
        return ""
    return "/".join(f"{x:+.3f}" for x in delta if x is not None)


def remarks(section: Section) -> list[str]:
    """What is to be known of a section's numbers, each once with the sets it is true of: worthless ones first."""
    worthless = [
        f"{label}: worthless: {problem}"
        for line, label in zip(section.lines, section.labels, strict=True)
        for problem in line.problems
    ]
    sets: dict[tuple[str, str], list[SetName]] = {}
    for line, label in zip(section.lines, section.labels, strict=True):
        for name in section.sets:
            for said in cell_remarks(line.cells[name]) if name in line.cells else []:
                sets.setdefault((label, said), []).append(name)
    return worthless + [
        f"{label} on {', '.join(names)}: {said}" for (label, said), names in sets.items()
    ]


def cell_remarks(cell: Cell) -> list[str]:
    """What differs from the published evaluation on one set, what was left out, and an unlike reference."""
    result = cell.result
    found = conditions(result)  # its precision stands in the table
    found += [f"{count} left out: {reason}" for reason, count in result.left_out.items()]
    if cell.reference is None:
        found.append("no float32 result of the same weights and pictures to compare with")
    elif not cell.same_input:
        found.append("the float32 result that it is compared with saw the pictures otherwise")
    return found


def _section(section: Section, style: TableStyle) -> list[str]:
    parts = [_heading(TITLES[section.measure], 2, style)]
    for group in section.groups:
        parts += [
            _heading(group.title, 3, style),
            "\n".join(_group(section, group, style)),
        ]
    notes = [f"{UNITS[section.measure]}; +/-: against the {REFERENCE}.", *remarks(section)]
    return [
        *parts,
        "\n".join(
            f"- {escaped(note, 400)}" if style == "markdown" else clean(note) for note in notes
        ),
    ]


def _group(section: Section, group: Group, style: TableStyle) -> list[str]:
    head = ["model", "backend", "precision", "run as", "per image"]
    for name in section.sets:
        head += [name, f"+/- {name}"]
    rows = []
    for line in group.lines:
        told_in = escaped if style == "markdown" else clean
        contender = line.contender
        texts = [contender.model, contender.backend, contender.precision, told(contender)]
        row = [told_in(text, 60) for text in texts]
        row.append(shown_time(line.time_s))
        for name in section.sets:
            row += _cell(line.cells, name)
        rows.append(row)
    return table_lines(head, rows, style)


def _cell(cells: dict[SetName, Cell], name: SetName) -> Sequence[str]:
    cell = cells.get(name)
    if cell is None:
        return NOT_MEASURED, ""
    if cell.result.problem:
        return shown_pair(cell.result.pair()), "worthless"
    if cell.is_reference:
        return shown_pair(cell.result.pair()), REFERENCE
    speed = "" if cell.speed is None else f", {cell.speed:.2f}x as fast"
    delta = shown_delta(cell.delta)
    return shown_pair(cell.result.pair()), f"{delta}{speed}" if delta else "-"


def _heading(text: str, level: int, style: TableStyle) -> str:
    return f"{'#' * level} {escaped(text, 200)}" if style == "markdown" else clean(text)
