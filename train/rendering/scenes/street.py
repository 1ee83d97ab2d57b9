"""Big things of the outdoors, each a prop with sizes and looks drawn at random.

Same frame as all props: standing on the origin, front towards +z, metres, y up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.furniture import bicycle, figure
from e2e_deploy.train.rendering.scenes.props import Part, Prop, material, thing

Rng = np.random.Generator


def building(rng: Rng) -> Prop:
    """A block or house with window reliefs, a door, and a flat or pitched roof."""
    w, d, h = rng.uniform(5, 14), rng.uniform(5, 12), rng.uniform(3, 16)
    storey = rng.uniform(2.6, 3.6)
    wall, trim = material(rng, "facade"), material(rng, "paint")
    glass = material(rng, "metal")
    parts: list[Part] = [(shapes.box((w, h, d)), wall)]
    if rng.random() < 0.6:  # windows that stand out, on the two faces a street shows
        columns, rows = max(int(w / rng.uniform(1.8, 3.5)), 1), max(int(h / storey), 1)
        size = (w / columns * rng.uniform(0.3, 0.7), storey * rng.uniform(0.35, 0.6))
        frames, panes = [], []
        for column in range(columns):
            for row in range(rows):
                x, y = -w / 2 + (column + 0.5) * w / columns, row * storey + 0.9
                for z in (-d / 2, d / 2):
                    frames.append(
                        shapes.box((size[0] + 0.2, size[1] + 0.2, 0.2), base=(x, y - 0.1, z))
                    )
                    panes.append(shapes.box((*size, 0.22), base=(x, y, z)))
        parts += [(shapes.merged(frames), trim), (shapes.merged(panes), glass)]
    door = material(rng, "wood")
    for z in (-d / 2, d / 2):
        x = rng.uniform(-0.3, 0.3) * w
        parts.append((shapes.box((rng.uniform(0.9, 2.0), 2.2, 0.25), base=(x, 0, z)), door))
    if h < 9 and rng.random() < 0.7:
        rise, over = rng.uniform(1.5, 3.5), 0.4
        roof = material(rng, str(rng.choice(["road", "paint", "wood"])))
        for side in (-1, 1):
            slope = shapes.quad(
                (-side * (w / 2 + over), h - 0.2, side * (d / 2 + over)),
                (side * (w + 2 * over), 0, 0),
                (0, rise + 0.2, -side * (d / 2 + over)),
            )
            parts.append((slope, roof))
        for x in (-w / 2, w / 2):
            gable = np.array(
                [[[x, h, -d / 2], [x, h, d / 2]], [[x, h + rise, 0], [x, h + rise, 0]]]
            )
            parts.append((shapes.surface(gable), wall))
    else:
        parts.append((shapes.box((w + 0.3, 0.4, d + 0.3), base=(0, h, 0)), trim))
    return Prop(tuple(parts))


def tree(rng: Rng) -> Prop:
    """A trunk with branches and a crown of bumpy balls, or a conifer of stacked cones."""
    h = rng.uniform(2.5, 9)
    bark, leaf = material(rng, "bark"), material(rng, "leaf")
    if rng.random() < 0.25:
        parts: list[Part] = [(shapes.cylinder(0.03 * h, 0.3 * h), bark)]
        for level in np.linspace(0.15, 0.7, 5):
            r = 0.25 * h * (1 - level)
            cone = shapes.cylinder(r, 0.32 * h, top_radius=0.02, sides=14)
            parts.append((cone.moved((0, level * h, 0)), leaf))
        return Prop(tuple(parts))
    parts = [(shapes.cylinder(0.03 * h, 0.75 * h, top_radius=0.012 * h, sides=12), bark)]
    for _ in range(int(rng.integers(4, 12))):
        yaw, out = rng.uniform(0, 6.28), rng.uniform(0.05, 0.25) * h
        tip = (out * np.sin(yaw), rng.uniform(0.5, 0.8) * h, out * np.cos(yaw))
        parts.append((shapes.tube([(0, 0.4 * h, 0), tip], 0.008 * h, sides=6), bark))
        if rng.random() < 0.9:
            r = rng.uniform(0.08, 0.16) * h
            crown = shapes.blob(r, rng, bumpiness=0.8, sides=24)
            parts.append((crown.moved((tip[0], tip[1] - 0.5 * r, tip[2])), leaf))
    return Prop(tuple(parts))


def bush(rng: Rng) -> Prop:
    """A clump of bumpy balls, or a clipped hedge."""
    leaf = material(rng, "leaf")
    if rng.random() < 0.3:
        size = (rng.uniform(2, 6), rng.uniform(0.6, 1.6), rng.uniform(0.5, 0.9))
        return Prop(((shapes.superellipsoid(size, roundness=0.15), leaf),))
    balls = [
        shapes.blob(r, rng, bumpiness=0.9).moved((rng.normal(0, r), -0.3 * r, rng.normal(0, r)))
        for r in rng.uniform(0.25, 0.7, int(rng.integers(2, 6)))
    ]
    return Prop(tuple((ball, leaf) for ball in balls))


def car(rng: Rng) -> Prop:
    """A car or van: rounded body, cabin with glass, four wheels."""
    length, w, h = rng.uniform(3.5, 5.0), rng.uniform(1.6, 1.9), rng.uniform(1.35, 2.1)
    paint, glass = material(rng, "paint"), material(rng, "metal")
    rubber, metal = material(rng, "bark"), material(rng, "metal")
    r = rng.uniform(0.28, 0.36)
    body_h = 0.5 * h
    body = shapes.superellipsoid((w, body_h, length), roundness=0.3).moved((0, 0.6 * r, 0))
    cabin_length = length * rng.uniform(0.45, 0.75)
    cabin_z = -length * rng.uniform(0.0, 0.12)
    cabin = shapes.superellipsoid((w * 0.88, h * 0.55, cabin_length), roundness=0.4)
    roof = shapes.superellipsoid((w * 0.85, h * 0.1, cabin_length * 0.75), roundness=0.4)
    parts: list[Part] = [
        (body, paint),
        (cabin.moved((0, 0.5 * h, cabin_z)), glass),
        (roof.moved((0, h * 1.0, cabin_z)), paint),
    ]
    wheel = shapes.tube([(-0.1, 0, 0), (0.1, 0, 0)], r, sides=24)
    rim = shapes.tube([(-0.11, 0, 0), (0.11, 0, 0)], 0.6 * r, sides=16)
    for x in (-w / 2 + 0.08, w / 2 - 0.08):
        for z in (-0.3 * length, 0.3 * length):
            parts += [(wheel.moved((x, r, z)), rubber), (rim.moved((x, r, z)), metal)]
    for x in (-0.35 * w, 0.35 * w):
        for z in (-length / 2, length / 2):
            light = shapes.superellipsoid((0.25, 0.15, 0.1), sides=12)
            parts.append((light.moved((x, 0.6 * r + 0.5 * body_h, 0.98 * z)), metal))
    return Prop(tuple(parts))


def fence(rng: Rng) -> Prop:
    """Posts with rails or pickets, or a low wall."""
    length, h = rng.uniform(3, 9), rng.uniform(0.7, 1.8)
    look = material(rng, str(rng.choice(["wood", "metal", "paint", "wall"])))
    style = rng.integers(3)
    if style == 0:
        return Prop(((shapes.box((length, h * 0.6, 0.25)), look),))
    posts = [
        shapes.box((0.08, h, 0.08), base=(float(x), 0, 0))
        for x in np.arange(-length / 2, length / 2, 1.5)
    ]
    rails = [shapes.box((length, 0.06, 0.04), base=(0, y * h, 0)) for y in (0.3, 0.6, 0.9)]
    step, width = (0.14, 0.09) if style == 1 else (0.2, 0.02)
    pickets = [
        shapes.box((width, h * 0.95, 0.02), base=(float(x), 0.02, 0.04))
        for x in np.arange(-length / 2, length / 2, step)
    ]
    return Prop(((shapes.merged([*posts, *rails, *pickets]), look),))


def street_lamp(rng: Rng) -> Prop:
    """A lamp post with an arm, or a post with a sign."""
    h, look = rng.uniform(2.5, 6), material(rng, "metal")
    pole = shapes.cylinder(rng.uniform(0.04, 0.1), h, top_radius=0.04, sides=14)
    if rng.random() < 0.5:
        sign = shapes.box(
            (rng.uniform(0.4, 1.2), rng.uniform(0.4, 0.9), 0.03), base=(0, h - 0.8, 0.06)
        )
        return Prop(((pole, look), (sign, material(rng, "picture", tile_m=1.0))))
    bend = np.linspace(0, np.pi / 2, 8)
    reach = rng.uniform(0.5, 1.5)
    arm = np.stack([0 * bend, h + 0.4 * np.sin(bend), reach * (1 - np.cos(bend))], -1)
    head = shapes.superellipsoid((0.25, 0.15, 0.5), roundness=0.5).moved((0, h + 0.3, reach))
    return Prop(((pole, look), (shapes.tube(arm, 0.035), look), (head, material(rng, "paint"))))


def bench(rng: Rng) -> Prop:
    """A park bench of planks on two supports."""
    w, wood, metal = rng.uniform(1.2, 2.0), material(rng, "wood"), material(rng, "metal")
    planks = [shapes.box((w, 0.03, 0.11), base=(0, 0.44, z)) for z in (-0.15, 0, 0.15)]
    backs = [shapes.box((w, 0.11, 0.03), base=(0, y, -0.26)) for y in (0.6, 0.76)]
    legs = [shapes.box((0.06, 0.44, 0.4), base=(x, 0, 0)) for x in (-w / 2.6, w / 2.6)]
    posts = [shapes.box((0.06, 0.88, 0.04), base=(x, 0, -0.23)) for x in (-w / 2.6, w / 2.6)]
    parts = [(shapes.merged([*planks, *backs]), wood), (shapes.merged([*legs, *posts]), metal)]
    return Prop(tuple(parts), ((0.0, 0.47, 0.0, 0.2),)).with_things(rng, 0.4)


def litter(rng: Rng) -> Prop:
    """A bin, boulder, crate or other lone thing."""
    return thing(rng, float(rng.uniform(0.4, 1.5)))


STREET: tuple[Callable[[Rng], Prop], ...] = (
    tree, tree, tree, bush, bush, car, car, fence, fence, street_lamp, bench, litter, litter,
    figure, figure, bicycle,
)  # fmt: skip
"""What stands outdoors apart from buildings; what stands twice comes twice as often."""
