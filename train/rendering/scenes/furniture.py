"""Furniture and other big things of a room, each a prop with sizes and looks drawn at random.

Same frame as all props: standing on the origin, front towards +z, metres, y up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.props import Material, Part, Prop, glowing, material, thing
from e2e_deploy.train.rendering.scenes.shapes import Mesh, Vec3

Rng = np.random.Generator


def _legs(w: float, h: float, d: float, thick: float, *, round_legs: bool) -> list[Mesh]:
    spots = [
        (x, z) for x in (-w / 2 + thick, w / 2 - thick) for z in (-d / 2 + thick, d / 2 - thick)
    ]
    leg = shapes.cylinder(thick / 2, h, sides=12) if round_legs else shapes.box((thick, h, thick))
    return [leg.moved((x, 0, z)) for x, z in spots]


def table(rng: Rng) -> Prop:
    """A table or desk with four legs, or one central leg under a round top."""
    w, d = rng.uniform(0.6, 2.0), rng.uniform(0.5, 1.0)
    h = rng.choice([rng.uniform(0.35, 0.5), rng.uniform(0.68, 0.8)])
    thick = rng.uniform(0.02, 0.06)
    wood = material(rng, str(rng.choice(["wood", "paint", "any"])))
    under = wood if rng.random() < 0.5 else material(rng, "metal")
    if rng.random() < 0.3:
        d = w = min(w, 1.2)
        parts = [
            (shapes.cylinder(w / 2, thick, sides=48).moved((0, h - thick, 0)), wood),
            (shapes.cylinder(0.05, h - thick), under),
            (shapes.cylinder(w / 4, 0.03), under),
        ]
    else:
        legs = _legs(w, h - thick, d, rng.uniform(0.03, 0.08), round_legs=bool(rng.random() < 0.5))
        parts = [(shapes.box((w, thick, d), base=(0, h - thick, 0)), wood)]
        parts += [(leg, under) for leg in legs]
    step = w / 4
    rests = tuple((x * step, h, z, 0.14) for x in (-1.1, 0, 1.1) for z in (-0.25 * d, 0.25 * d))
    return Prop(tuple(parts), rests).with_things(rng, rng.uniform(0.2, 0.8))


def chair(rng: Rng) -> Prop:
    """A chair with a back of bars or one panel, or a stool."""
    w, h = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.5)
    frame = material(rng, str(rng.choice(["wood", "metal", "paint"])))
    seat = material(rng, "cloth") if rng.random() < 0.5 else frame
    legs = _legs(w, h, w, rng.uniform(0.025, 0.045), round_legs=bool(rng.random() < 0.5))
    cushion = shapes.superellipsoid((w, 0.07, w), roundness=0.2).moved((0, h - 0.02, 0))
    parts: list[Part] = [(leg, frame) for leg in legs]
    parts.append((cushion, seat))
    back = rng.uniform(0.3, 0.55)
    style = rng.integers(3)
    if style == 0:
        parts.append((shapes.box((w, back, 0.04), base=(0, h + 0.03, -w / 2)), seat))
    elif style == 1:
        top = shapes.box((w, 0.06, 0.03), base=(0, h + back, -w / 2))
        bars = [
            shapes.cylinder(0.012, back, sides=8).moved((x, h, -w / 2))
            for x in np.linspace(-w / 2 + 0.03, w / 2 - 0.03, 6)
        ]
        parts += [(m, frame) for m in (top, *bars)]
    return Prop(tuple(parts), ((0.0, h + 0.05, 0.0, 0.12),)).with_things(rng, 0.15)


def shelf(rng: Rng) -> Prop:
    """An open bookcase with things on its boards."""
    w, h, d = rng.uniform(0.5, 1.8), rng.uniform(0.7, 2.1), rng.uniform(0.22, 0.4)
    look, thick = material(rng, str(rng.choice(["wood", "paint"]))), 0.025
    levels = int(rng.integers(2, 7))
    heights = np.linspace(0.04, h - thick, levels)
    parts: list[Part] = [(shapes.box((w, thick, d), base=(0, float(y), 0)), look) for y in heights]
    parts += [(shapes.box((thick, h, d), base=(x, 0, 0)), look) for x in (-w / 2, w / 2)]
    if rng.random() < 0.7:
        parts.append((shapes.box((w, h, 0.01), base=(0, 0, -d / 2)), look))
    gap = float(heights[1] - heights[0])
    books = [
        material(rng, str(rng.choice(["paint", "cloth", "any"])), tile_m=0.3) for _ in range(5)
    ]
    rests: list[tuple[float, float, float, float]] = []
    for y in heights[:-1]:
        if rng.random() < 0.5:
            parts += _book_row(rng, w - 0.1, gap - 0.05, d, float(y) + thick, books)
        else:
            rests += [(x * w / 5, float(y) + thick, 0.0, min(0.1, gap / 4)) for x in (-1.5, 0, 1.5)]
    rests += [(x * w / 5, h, 0.0, 0.1) for x in (-1.5, 0, 1.5)]
    return Prop(tuple(parts), tuple(rests)).with_things(rng, 0.5)


def _book_row(
    rng: Rng, width: float, height: float, depth: float, y: float, looks: list[Material]
) -> list[Part]:
    books: list[Part] = []
    x = -width / 2
    while x < width / 2 * rng.uniform(0.2, 1.0):
        thick = rng.uniform(0.015, 0.05)
        book = shapes.box((thick, height * rng.uniform(0.6, 1.0), depth * rng.uniform(0.6, 0.9)))
        books.append((book.moved((x + thick / 2, y, 0)), looks[int(rng.integers(len(looks)))]))
        x += thick + 0.002
    return books


def cupboard(rng: Rng) -> Prop:
    """A cupboard, chest of drawers or kitchen unit with fronts and knobs."""
    w, h, d = rng.uniform(0.4, 1.6), rng.uniform(0.5, 2.1), rng.uniform(0.35, 0.65)
    body = material(rng, str(rng.choice(["wood", "paint", "metal"])))
    front = body if rng.random() < 0.5 else material(rng, str(rng.choice(["wood", "paint"])))
    knob = material(rng, "metal")
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    parts: list[Part] = [(shapes.box((w, h, d)), body)]
    cell_w, cell_h = w / columns, (h - 0.06) / rows
    for column in range(columns):
        for row in range(rows):
            x, y = -w / 2 + (column + 0.5) * cell_w, 0.05 + row * cell_h
            panel = shapes.box((cell_w - 0.02, cell_h - 0.02, 0.02), base=(x, y, d / 2 + 0.01))
            grip = shapes.superellipsoid((0.03, 0.03, 0.03), sides=12)
            parts += [
                (panel, front),
                (grip.moved((x + 0.3 * cell_w, y + cell_h / 2, d / 2 + 0.03)), knob),
            ]
    rests = tuple((x * w / 3.2, h, 0.0, 0.12) for x in (-1, 0, 1))
    return Prop(tuple(parts), rests).with_things(rng, 0.4 if h < 1.3 else 0.1)


def sofa(rng: Rng) -> Prop:
    """A sofa or armchair of rounded cushions."""
    seats = int(rng.integers(1, 4))
    seat_w, d, h = rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.95), rng.uniform(0.35, 0.45)
    w, arm, soft = seats * seat_w, rng.uniform(0.12, 0.25), rng.uniform(0.15, 0.35)
    cloth = material(rng, "cloth")
    cushion = cloth if rng.random() < 0.5 else material(rng, "cloth")

    def pad(size: Vec3, at: Vec3, look: Material = cloth) -> Part:
        return shapes.superellipsoid(size, roundness=soft).moved(at), look

    parts = [
        (shapes.box((w + arm, h * 0.6, d), base=(0, 0.06, 0)), cloth),
        pad((w + 2 * arm, h + 0.45, 0.25), (0, 0.05, -d / 2)),
        pad((arm, h + 0.22, d + 0.1), (-w / 2 - arm / 2, 0.05, 0)),
        pad((arm, h + 0.22, d + 0.1), (w / 2 + arm / 2, 0.05, 0)),
    ]
    for i in range(seats):
        x = -w / 2 + (i + 0.5) * seat_w
        parts.append(pad((seat_w, 0.2, d), (x, h * 0.6, 0.05), cushion))
        if rng.random() < 0.6:
            parts.append(pad((0.42, 0.42, 0.16), (x, h * 0.6 + 0.18, -d / 2 + 0.25), cushion))
    return Prop(tuple(parts), ((0.0, h * 0.6 + 0.2, 0.15, 0.2),)).with_things(rng, 0.2)


def bed(rng: Rng) -> Prop:
    """A bed with a blanket, a headboard and pillows."""
    w, length, h = rng.uniform(0.8, 1.8), rng.uniform(1.9, 2.1), rng.uniform(0.3, 0.5)
    wood, sheet, blanket = material(rng, "wood"), material(rng, "cloth"), material(rng, "cloth")
    mattress = shapes.superellipsoid((w, 0.25, length), roundness=0.15).moved((0, h - 0.05, 0))
    cover = shapes.superellipsoid((w + 0.06, 0.24, length * 0.65), roundness=0.2)
    parts: list[Part] = [
        (shapes.box((w, h, length)), wood),
        (shapes.box((w + 0.1, h + rng.uniform(0.3, 0.7), 0.06), base=(0, 0, -length / 2)), wood),
        (mattress, sheet),
        (cover.moved((0, h, length * 0.17)), blanket),
    ]
    for x in (-w / 4, w / 4) if w > 1.2 else (0.0,):
        pillow = shapes.superellipsoid((0.6, 0.18, 0.4), roundness=0.5)
        parts.append(
            (pillow.moved((x, h + 0.17, -length / 2 + 0.3), yaw=rng.normal(0, 0.1)), sheet)
        )
    return Prop(tuple(parts))


def lamp(rng: Rng) -> Prop:
    """A floor lamp, lit or not."""
    h, r = rng.uniform(1.2, 1.8), rng.uniform(0.12, 0.25)
    shade = shapes.lathe([(r, h - 0.3), (r * rng.uniform(0.5, 1.0), h)])
    bulb = shapes.superellipsoid((0.12, 0.12, 0.12), sides=12).moved((0, h - 0.2, 0))
    light = glowing(rng, 20.0) if rng.random() < 0.6 else material(rng, "paint")
    metal = material(rng, "metal")
    return Prop(
        (
            (shapes.cylinder(0.15, 0.03), metal),
            (shapes.cylinder(0.012, h - 0.1, sides=10), metal),
            (shade, material(rng, "cloth")),
            (bulb, light),
        )
    )


def plant(rng: Rng) -> Prop:
    """A pot with arched leaves."""
    pot_h = rng.uniform(0.15, 0.4)
    pot = shapes.cylinder(pot_h * 0.35, pot_h, top_radius=pot_h * 0.5)
    leaf = material(rng, "leaf")
    parts: list[Part] = [(pot, material(rng, "any", tile_m=0.4))]
    for _ in range(int(rng.integers(6, 22))):
        reach, rise = rng.uniform(0.1, 0.5), rng.uniform(0.2, 1.0)
        along = np.linspace(0, 1, 8)
        width = rng.uniform(0.02, 0.09) * np.sin(np.pi * along**0.7)
        spine_z = reach * along**1.5
        spine_y = pot_h + rise * (along - 0.4 * along**3)
        sides = np.stack([np.stack([s * width, spine_y, spine_z], -1) for s in (1, 0, -1)])
        sides[1, :, 1] -= 0.2 * width
        parts.append((shapes.surface(sides).moved(yaw=rng.uniform(0, 6.28)), leaf))
    return Prop(tuple(parts))


def bicycle(rng: Rng) -> Prop:
    """Two wheels with spokes and a frame of tubes: thin structure against whatever is behind."""
    r = rng.uniform(0.28, 0.36)
    paint, metal, rubber = material(rng, "paint"), material(rng, "metal"), material(rng, "paint")
    thick = rng.uniform(0.015, 0.05)
    a, b = (-0.5, r, 0.0), (0.52, r, 0.0)
    pedal, saddle, head = (-0.08, r - 0.05, 0.0), (-0.22, r + 0.45, 0.0), (0.36, r + 0.42, 0.0)
    bars = [(pedal, saddle), (pedal, head), (saddle, head), (a, pedal), (a, saddle), (head, b)]
    parts: list[Part] = [(shapes.tube([p, q], thick), paint) for p, q in bars]
    for centre in (a, b):
        parts.append((shapes.torus(r, rng.uniform(0.015, 0.04), sides=40).moved(centre), rubber))
        for angle in np.linspace(0, np.pi, int(rng.integers(3, 9)), endpoint=False):
            spoke = r * np.array([np.cos(angle), np.sin(angle), 0.0])
            parts.append((shapes.tube([centre - spoke, centre + spoke], 0.004, sides=6), metal))
    handle = [(head[0], head[1], 0.0), (head[0], head[1] + 0.15, 0.0)]
    grips = [(head[0], head[1] + 0.15, -0.28), (head[0], head[1] + 0.15, 0.28)]
    seat = shapes.superellipsoid((0.26, 0.07, 0.14), roundness=0.8)
    parts += [
        (shapes.tube(handle, 0.015), metal),
        (shapes.tube(grips, 0.015), metal),
        (shapes.tube([saddle, (saddle[0], saddle[1] + 0.1, 0)], 0.015), metal),
        (seat.moved((saddle[0], saddle[1] + 0.1, 0)), rubber),
    ]
    if rng.random() < 0.4:  # a motor and a tank make it a motorcycle
        motor = shapes.superellipsoid((0.4, 0.3, 0.25), roundness=0.4)
        tank = shapes.superellipsoid((0.45, 0.22, 0.25), roundness=0.7)
        parts += [(motor.moved((0, r - 0.1, 0)), metal), (tank.moved((0.1, r + 0.3, 0)), paint)]
    return Prop(tuple(parts))


def screen(rng: Rng) -> Prop:
    """A flat screen on a low stand."""
    w, h = rng.uniform(0.8, 1.5), rng.uniform(0.35, 0.6)
    dark = material(rng, "paint")
    picture = shapes.quad((-w / 2 + 0.02, h + 0.1, 0.026), (w - 0.04, 0, 0), (0, w * 0.55, 0))
    return Prop(
        (
            (shapes.box((w * 1.2, h, 0.4)), material(rng, "wood")),
            (shapes.box((0.3, 0.08, 0.2), base=(0, h, 0)), dark),
            (shapes.box((w, w * 0.6, 0.05), base=(0, h + 0.08, 0)), dark),
            (picture, material(rng, "picture", tile_m=w)),
        )
    )


def pile(rng: Rng) -> Prop:
    """Things of one size stacked on each other."""
    parts: list[Part] = []
    y, size = 0.0, rng.uniform(0.3, 0.7)
    for _ in range(int(rng.integers(1, 4))):
        item = thing(rng, size).moved((0, y, 0), yaw=rng.uniform(0, 6.28))
        parts += item.parts
        y = float(item.bounds[1][1])
        size *= rng.uniform(0.5, 0.9)
    return Prop(tuple(parts))


def figure(rng: Rng) -> Prop:
    """A mannequin of tubes and ellipsoids in the proportions of a person."""
    h = rng.uniform(1.2, 1.9)
    skin = material(rng, "bark" if rng.random() < 0.3 else "paint")
    top, legs = material(rng, "cloth"), material(rng, "cloth")
    stride, swing = rng.uniform(-0.15, 0.15) * h, rng.uniform(-0.2, 0.2, 2) * h
    parts: list[Part] = [
        (shapes.superellipsoid((0.13 * h, 0.15 * h, 0.14 * h)).moved((0, 0.86 * h, 0)), skin),
        (
            shapes.superellipsoid((0.25 * h, 0.38 * h, 0.16 * h), roundness=0.6).moved(
                (0, 0.48 * h, 0)
            ),
            top,
        ),
        (shapes.tube([(0, 0.82 * h, 0), (0, 0.9 * h, 0)], 0.03 * h), skin),
    ]
    for side, reach in ((-1, swing[0]), (1, swing[1])):
        hip, foot = (side * 0.06 * h, 0.52 * h, 0), (side * 0.07 * h, 0.03 * h, side * stride)
        hand = (side * 0.17 * h, 0.48 * h, reach)
        parts += [
            (shapes.tube([hip, foot], 0.045 * h), legs),
            (shapes.tube([(side * 0.13 * h, 0.8 * h, 0), hand], 0.03 * h), top),
            (shapes.superellipsoid((0.06 * h, 0.06 * h, 0.06 * h), sides=12).moved(hand), skin),
            (
                shapes.superellipsoid((0.07 * h, 0.05 * h, 0.15 * h), sides=12).moved(
                    (foot[0], 0, foot[2] + 0.03 * h)
                ),
                skin,
            ),
        ]
    return Prop(tuple(parts))


FURNITURE: tuple[Callable[[Rng], Prop], ...] = (
    table, table, chair, chair, shelf, cupboard, cupboard, sofa, bed, lamp, plant, bicycle,
    screen, pile, pile, figure,
)  # fmt: skip
"""What a room may hold; what stands twice comes twice as often."""
AT_WALL = frozenset({shelf, cupboard, sofa, bed, screen})
"""Furniture that stands with its back to a wall."""
