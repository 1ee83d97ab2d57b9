"""Own numbers between the published ones as a picture: a strip a set, in SVG that needs nothing else.

Knows: where a number stands on a strip. Does not know: the page.
"""

import math
from html import escape

from e2e_deploy.names import Measure, SetName
from e2e_deploy.train.comparison.comparison import Section
from e2e_deploy.train.protocol.published import PublishedRow, rows_for
from e2e_deploy.train.protocol.published_table import shown_pair
from e2e_deploy.train.protocol.result import SetResult

WIDTH, ROW, LEFT, RIGHT, TOP = 920, 44, 120, 70, 6
AXES: dict[Measure, str] = {"depth": "AbsRel, per cent", "normals": "mean error, degrees"}


def strips(section: Section) -> str:
    """An SVG with a strip for each measured set: published rows as marks, own results as larger ones."""
    published = rows_for(section.measure, same_protocol=True)
    names = section.sets
    height = TOP + ROW * len(names) + 24
    parts = [
        f'<svg class="strips" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(AXES[section.measure])}: own results among published ones">'
    ]
    for index, name in enumerate(names):
        y = TOP + ROW * index + ROW // 2
        theirs = [(row, row.values[name][0]) for row in published if name in row.values]
        ours = [
            (label, line.cells[name].result)
            for line, label in zip(section.lines, section.labels, strict=True)
            if name in line.cells
        ]
        parts += _strip(name, y, theirs, ours)
    parts.append(
        f'<text class="axis" x="{LEFT}" y="{height - 6}">{escape(AXES[section.measure])}, logarithmic: '
        "left is better</text></svg>"
    )
    return "\n".join(parts)


def _strip(
    name: SetName,
    y: int,
    theirs: list[tuple[PublishedRow, float]],
    ours: list[tuple[str, SetResult]],
) -> list[str]:
    numbers = [value for _, value in theirs] + [result.pair()[0] for _, result in ours]
    numbers = [max(value, 1e-3) for value in numbers]
    low, high = math.log(min(numbers) / 1.03), math.log(max(numbers) * 1.03)

    def at(value: float) -> float:
        share = (math.log(max(value, 1e-3)) - low) / (high - low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        f'<text class="name" x="0" y="{y + 5}">{escape(name)}</text>',
        f'<line class="rail" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
        f'<text class="end" x="{WIDTH - RIGHT + 8}" y="{y + 4}">{max(numbers):.1f}</text>',
        f'<text class="end" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{min(numbers):.1f}</text>',
    ]
    for label, result in ours:  # below the published ones, which are smaller
        mark = "worthless" if result.problem else "ours"
        said = f"{label}: {shown_pair(result.pair())}"
        parts.append(_mark(mark, at(result.pair()[0]), y, 9, said))
    for row, value in theirs:
        mark = "seed" if "E2E FT" in row.method else "theirs"
        said = f"{row.method} {row.runs}: {shown_pair(row.values[name])}"
        parts.append(_mark(mark, at(value), y, 5, said))
    return parts


def _mark(kind: str, x: float, y: int, radius: int, said: str) -> str:
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(said)}</title></circle>'
