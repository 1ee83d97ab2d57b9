"""A plot with logarithmic axes as SVG: a text that is the same whoever draws it."""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 20, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")
"""Told apart by most people who see few colours (Okabe and Ito)."""

Series = tuple[str, Sequence[tuple[float, float]], bool]
"""Name, points, and whether the line is dashed."""


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)) + 1e-9)
    return low, max(low + 1, math.ceil(math.log10(max(values)) - 1e-9))


def log_log(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """The plot's SVG.

    Args:
        series: at least one, with positive numbers.
        x_label: below the horizontal axis.
        y_label: beside the vertical axis.
    """
    (x_low, x_high), (y_low, y_high) = (
        _decades([point[axis] for _, points, _ in series for point in points]) for axis in (0, 1)
    )
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + wide * (math.log10(value) - x_low) / (x_high - x_low)

    def y_of(value: float) -> float:
        return TOP + high * (1 - (math.log10(value) - y_low) / (y_high - y_low))

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(x_low, x_high + 1):
        x = x_of(10.0**power)
        lines.append(
            f'<path d="M{x:.1f} {TOP}V{TOP + high}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{TOP + high + 18}" text-anchor="middle">{10.0**power:,g}</text>'
        )
    for power in range(y_low, y_high + 1):
        y = y_of(10.0**power)
        lines.append(
            f'<path d="M{LEFT} {y:.1f}H{LEFT + wide}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>'
        )
    for number, (name, points, dashed) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        at = TOP + 12 + 20 * number
        lines.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
            f'<path d="M{LEFT + wide + 12} {at}h24" stroke="{colour}" stroke-width="2"{dashes}/>'
            f'<text x="{LEFT + wide + 42}" y="{at + 4}">{escape(name)}</text>'
        )
    middle = TOP + high / 2
    lines += [
        f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="16" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 16 {middle:.0f})">'
        f"{escape(y_label)}</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def save(svg: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")
