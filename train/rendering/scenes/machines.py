"""Things that are assembled of many parts and seen as one: vehicles, machines, racks, animals, people from near by.

Same frame as all props: standing on the origin, front towards +z, metres, y up. Vehicles are long in x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.props import Material, Part, Prop, material, thing
from e2e_deploy.train.rendering.scenes.shapes import Mesh, Vec3

Rng = np.random.Generator
F64 = npt.NDArray[np.float64]


def _bent(*points: Vec3, steps: int = 10) -> F64:
    """A smooth path from the first to the last of three or four points, pulled towards those between (Bezier)."""
    at = np.linspace(0, 1, steps)[:, None, None]
    path = np.broadcast_to(np.asarray(points, np.float64), (steps, len(points), 3))
    while path.shape[1] > 1:
        path = path[:, :-1] * (1 - at) + path[:, 1:] * at
    return np.ascontiguousarray(path[:, 0])


def _arc(radius: float, width: float, start: float, end: float) -> Mesh:
    """A strip of ``width`` in z around the z axis, from one angle in radians to another: a mudguard."""
    angle = np.linspace(start, end, 14)
    rim = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    sides = [np.stack([rim[:, 0], rim[:, 1], np.full(14, z)], -1) for z in (width / 2, -width / 2)]
    return shapes.surface(np.stack(sides))


def _disc(radius: float, thick: float, *, sides: int = 24) -> Mesh:
    """A disc about the z axis through the origin."""
    return shapes.tube([(0, 0, -thick / 2), (0, 0, thick / 2)], radius, sides=sides)


def _wheel(rng: Rng, r: float, thick: float, looks: tuple[Material, Material]) -> list[Part]:
    """A tyre with a rim, and spokes or a disc, about the z axis through the origin."""
    rubber, metal = looks
    parts = [
        (shapes.torus(r - thick, thick, sides=36), rubber),
        (shapes.torus(r - 1.8 * thick, 0.4 * thick, sides=28), metal),
        (shapes.tube([(0, 0, -1.2 * thick), (0, 0, 1.2 * thick)], 0.18 * r), metal),
    ]
    style, reach = rng.integers(3), r - 1.8 * thick
    if style == 0:
        return [*parts, (_disc(reach, 0.8 * thick), metal)]
    count, wide = (
        (int(rng.integers(8, 17)), 0.003) if style == 1 else (int(rng.integers(3, 8)), 0.02)
    )
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        tip = (reach * np.cos(angle), reach * np.sin(angle), 0.0)
        parts.append((shapes.tube([(0, 0, 0), tip], wide, sides=6), metal))
    return [*parts, (_disc(0.55 * r, 0.012), metal)] if rng.random() < 0.5 else parts


def _moved(parts: list[Part], at: Vec3) -> list[Part]:
    return [(mesh.moved(at), look) for mesh, look in parts]


def motorcycle(rng: Rng) -> Prop:
    """A motorcycle or moped with its engine, exhaust, fork and mirrors, leaning on its stand."""
    r, thick, base = rng.uniform(0.26, 0.35), rng.uniform(0.04, 0.085), rng.uniform(1.15, 1.6)
    colour = "lacquer" if rng.random() < 0.7 else "paint"
    paint, chrome, iron = material(rng, colour), material(rng, "chrome"), material(rng, "metal")
    rubber, leather = material(rng, "rubber"), material(rng, "rubber")
    rake, high = rng.uniform(0.2, 0.55), rng.uniform(0.5, 0.7)
    a, b = (-base / 2, r, 0.0), (base / 2, r, 0.0)
    head = (base / 2 - rake, r + high, 0.0)
    low, tail = (-0.05, 0.55 * r, 0.0), (-base / 2 - 0.05, r + 0.42, 0.0)
    parts = _moved(_wheel(rng, r, thick, (rubber, chrome)), a)
    parts += _moved(_wheel(rng, r, thick * rng.uniform(0.7, 1), (rubber, chrome)), b)
    bars = [(head, low), (head, tail), (low, a), (low, (-0.35, r + 0.3, 0.0)), (a, tail)]
    parts += [(shapes.tube([p, q], 0.02), iron) for p, q in bars]
    for z in (-0.1, 0.1):
        fork = [(b[0], b[1], z), (head[0], head[1] + 0.06, z)]
        spring = [(a[0], a[1], z), (a[0] + 0.15, r + 0.4, z)]
        parts += [
            (shapes.tube(fork, 0.024), chrome),
            (shapes.tube(spring, 0.03), chrome if rng.random() < 0.5 else iron),
        ]
    # Engine: a case, cylinders with cooling fins, a tank above and panels at the sides.
    block = rng.uniform(0.32, 0.5)
    case = shapes.superellipsoid((block, 0.26, 0.32), roundness=0.3)
    parts += [(case.moved((0.02, 0.5 * r, 0)), iron)]
    parts += [(_disc(0.11, 0.36).moved((x, 0.5 * r + 0.12, 0)), chrome) for x in (-0.08, 0.12)]
    lean = rng.uniform(-0.3, 0.3)
    for x in (-0.1, 0.12) if rng.random() < 0.6 else (0.06,):
        for step in range(int(rng.integers(5, 9))):
            fin = shapes.box((0.15, 0.012, 0.2))
            rise = 0.5 * r + 0.24 + 0.03 * step
            parts.append((fin.moved((x + lean * 0.03 * step, rise, 0)), chrome))
    tank = shapes.superellipsoid((0.52, 0.24, 0.28), roundness=rng.uniform(0.4, 0.9))
    seat_y, seat = (
        r + rng.uniform(0.34, 0.46),
        shapes.superellipsoid((0.66, 0.13, 0.27), roundness=0.5),
    )
    panel = shapes.superellipsoid((0.28, 0.2, 0.26), roundness=0.5)
    parts += [
        (tank.moved((head[0] - 0.34, r + 0.34, 0)), paint),
        (seat.moved((head[0] - 0.9, seat_y, 0)), leather),
        (panel.moved((-0.28, r + 0.12, 0)), paint if rng.random() < 0.6 else iron),
    ]
    for side in (-1, 1) if rng.random() < 0.6 else (1,):
        z, out = side * 0.15, -base / 2 - rng.uniform(-0.25, 0.3)
        pipe = _bent(
            (0.2, r + 0.1, 0.5 * z), (0.45, 0.3 * r, z), (-0.1, 0.3 * r, z), (-0.35, 0.45 * r, z)
        )
        parts += [
            (shapes.tube(pipe, 0.025), chrome),
            (shapes.tube([pipe[-1], (out, 0.6 * r, 1.2 * z)], rng.uniform(0.04, 0.065)), chrome),
        ]
    for centre, start, end in ((a, 0.3, 2.9), (b, 0.2, 2.4)):
        guard = _arc(r + 0.04, 2.6 * thick, start, end)
        parts.append((guard.moved(centre), paint if rng.random() < 0.7 else chrome))
    grip, back = rng.uniform(0.28, 0.42), rng.uniform(0.0, 0.25)
    rise = head[1] + rng.uniform(0.06, 0.25)
    for z in (-1, 1):
        hold = (head[0] - back, rise, z * grip)
        bar = _bent((head[0], head[1] + 0.06, 0), (head[0], rise, z * 0.1), hold)
        inner = (hold[0] + 0.05, hold[1], hold[2] * 0.65)
        mirror = (hold[0] + 0.03, hold[1] + 0.2, hold[2] * 0.95)
        parts += [
            (shapes.tube(bar, 0.013), chrome),
            (shapes.tube([inner, hold], 0.022), rubber),
            (shapes.tube([inner, mirror], 0.006), chrome),
            (shapes.superellipsoid((0.03, 0.09, 0.13), sides=14).moved(mirror), chrome),
        ]
    lamp = shapes.superellipsoid((0.17, 0.19, 0.19), sides=20)
    plate = shapes.box((0.01, 0.14, 0.2), base=(tail[0] - 0.12, r + 0.3, 0))
    stand = shapes.tube([(-0.1, 0.4 * r, 0.1), (-0.2, 0.01, 0.26)], 0.014)
    parts += [
        (lamp.moved((head[0] + 0.14, head[1] - 0.06, 0)), chrome),
        (plate, material(rng, "picture", tile_m=0.3)),
        (stand, iron),
    ]
    if rng.random() < 0.4:
        case = shapes.superellipsoid((0.34, 0.3, 0.4), roundness=0.3)
        parts.append((case.moved((tail[0] - 0.05, seat_y + 0.06, 0)), leather))
    tilt = rng.uniform(0.02, 0.2)
    c, s = np.cos(tilt), np.sin(tilt)
    roll = [[1, 0, 0], [0, c, -s], [0, s, c]]
    return Prop(tuple((mesh.turned(roll), look) for mesh, look in parts))


def cart(rng: Rng) -> Prop:
    """A trolley of planks, sheets or wires on four wheels, with a handle and a load."""
    w, d, deck, r = rng.uniform(0.7, 1.4), rng.uniform(0.45, 0.8), rng.uniform(0.15, 0.5), 0.1
    metal, look, rubber = material(rng, "metal"), material(rng, "any"), material(rng, "rubber")
    parts: list[Part] = [(shapes.box((w, 0.03, d), base=(0, deck, 0)), look)]
    for x in (-w / 2 + r, w / 2 - r):
        for z in (-d / 2, d / 2):
            parts += _moved(_wheel(rng, r, 0.025, (rubber, metal)), (x, r, z))
            parts.append((shapes.tube([(x, r, z), (x, deck, z)], 0.012), metal))
    top = deck + rng.uniform(0.3, 0.6)
    grip = [(-w / 2, deck, -d / 2), (-w / 2 - 0.2, top + 0.3, -d / 2)]
    other = [(x, y, d / 2) for x, y, _ in grip]
    parts += [(shapes.tube(rail, 0.015), metal) for rail in (grip, other, [grip[1], other[1]])]
    style = rng.integers(3)
    if style == 0:  # a basket of wires
        for y in np.linspace(deck, top, 5):
            ring = [(x, y, z) for x, z in ((-w, -d), (w, -d), (w, d), (-w, d), (-w, -d))]
            edges = [np.array([p, q]) * [0.5, 1, 0.5] for p, q in itertools.pairwise(ring)]
            parts += [(shapes.tube(edge, 0.006, sides=6), metal) for edge in edges]
        for x in np.linspace(-w / 2, w / 2, int(rng.integers(6, 14))):
            for z in (-d / 2, d / 2):
                parts.append((shapes.tube([(x, deck, z), (x, top, z)], 0.004, sides=6), metal))
    elif style == 1:  # a box
        for z in (-d / 2, d / 2):
            parts.append((shapes.box((w, top - deck, 0.02), base=(0, deck, z)), look))
        for x in (-w / 2, w / 2):
            parts.append((shapes.box((0.02, top - deck, d), base=(x, deck, 0)), look))
    for x in (-0.25 * w, 0.2 * w):
        load = thing(rng, float(rng.uniform(0.25, 0.5)))
        parts += load.moved((x, deck + 0.03, 0), yaw=rng.uniform(0, 6.28)).parts
    return Prop(tuple(parts))


def contraption(rng: Rng) -> Prop:
    """A machine of random solids along a beam, mirrored left and right, joined by bars and pipes, on wheels or legs."""
    length, h, w = rng.uniform(0.7, 2.2), rng.uniform(0.5, 1.3), rng.uniform(0.15, 0.5)
    looks = [material(rng, role) for role in ("lacquer", "metal", "rubber", "chrome", "any")]
    beam = rng.uniform(0.35, 0.6) * h
    parts: list[Part] = [
        (shapes.tube([(-length / 2, beam, 0), (length / 2, beam, 0)], 0.03), looks[1])
    ]
    spots: list[Vec3] = []
    for _ in range(int(rng.integers(5, 15))):
        at = (
            rng.uniform(-0.5, 0.5) * length,
            rng.uniform(0.25, 0.95) * h,
            float(rng.choice([0, w])),
        )
        size = rng.uniform(0.06, 0.3) * length * rng.uniform(0.4, 1.0, 3)
        look = looks[int(rng.integers(len(looks)))]
        solid = _solid(rng, (float(size[0]), float(size[1]), float(size[2])))
        for side in (-1, 1) if at[2] else (1,):
            spot = (at[0], at[1], side * at[2])
            parts += [
                (solid.moved((spot[0], spot[1] - size[1] / 2, spot[2])), look),
                (shapes.tube([spot, (at[0] * 0.9, beam + 1e-3, 0)], 0.015, sides=8), looks[1]),
            ]
            spots.append(spot)
    for _ in range(int(rng.integers(2, 8))):
        p, q = (spots[i] for i in rng.integers(0, len(spots), 2))
        bend = [tuple(v + rng.normal(0, 0.2, 3) * [1, 0.5, 1]) for v in (np.array(p), np.array(q))]
        hose = _bent(p, bend[0], bend[1], (q[0], q[1], q[2] + 1e-3))
        parts.append(
            (shapes.tube(hose, rng.uniform(0.006, 0.03), sides=8), looks[int(rng.integers(1, 4))])
        )
    if rng.random() < 0.55:
        r = rng.uniform(0.25, 0.55) * h
        for x in (-length / 2 + r / 2, length / 2 - r / 2):
            sides = (0.0,) if rng.random() < 0.3 else (-w - 0.05, w + 0.05)
            for z in sides:
                parts += _moved(_wheel(rng, r, 0.14 * r, (looks[2], looks[1])), (x, r, z))
            parts.append((shapes.tube([(x, r, -w), (x * 0.99, beam, w)], 0.02), looks[1]))
    else:
        spread = rng.uniform(0.0, 0.25)
        for x in (-length / 2, length / 2):
            for z in (-w, w):
                parts.append(
                    (
                        shapes.tube([(0.8 * x, beam, 0), (x, 0.0, z + np.sign(z) * spread)], 0.02),
                        looks[1],
                    )
                )
    return Prop(tuple(parts))


def _solid(rng: Rng, size: Vec3) -> Mesh:
    """A solid of about ``size`` that stands on the origin."""
    style, w, h = rng.integers(5), size[0], size[1]
    if style == 0:
        return shapes.box(size)
    if style == 1:
        return shapes.superellipsoid(size, roundness=float(rng.uniform(0.2, 1.0)), sides=24)
    if style == 2:
        return shapes.cylinder(w / 2, h, top_radius=w / 2 * float(rng.choice([1.0, 0.6])))
    if style == 3:
        return _disc(h / 2, size[2]).moved((0, h / 2, 0))
    return shapes.merged(
        [shapes.box((w, h / 14, size[2]), base=(0, h * k / 7, 0)) for k in range(7)]
    )


def rack(rng: Rng) -> Prop:
    """Storage shelves of a workshop: posts, boards, boxes, bins and things."""
    w, h, d = rng.uniform(0.9, 2.6), rng.uniform(1.4, 2.3), rng.uniform(0.35, 0.6)
    post, board = material(rng, "metal"), material(rng, str(rng.choice(["wood", "metal", "paint"])))
    boxes = [
        material(rng, str(rng.choice(["paint", "lacquer", "bold", "wood"])), tile_m=0.4)
        for _ in range(5)
    ]
    bars = [
        shapes.box((0.05, h, 0.05), base=(x, 0, z))
        for x in (-w / 2, w / 2)
        for z in (-d / 2, d / 2)
    ]
    parts: list[Part] = [(shapes.merged(bars), post)]
    heights = np.linspace(rng.uniform(0.05, 0.4), h - 0.1, int(rng.integers(3, 6)))
    gap = float(heights[1] - heights[0])
    for y in heights.tolist():
        parts.append((shapes.box((w, 0.03, d), base=(0, y, 0)), board))
        x = -w / 2 + 0.05
        while x < w / 2 - 0.15:
            size = rng.uniform(0.12, 0.45)
            if rng.random() < 0.65:
                tall = min(size, gap - 0.06) * rng.uniform(0.5, 1.0)
                box = shapes.box((size * 0.9, tall, d * rng.uniform(0.5, 0.95)))
                at = (x + size / 2, y + 0.03, rng.uniform(-0.05, 0.05))
                parts.append((box.moved(at, yaw=rng.normal(0, 0.05)), boxes[int(rng.integers(5))]))
            elif rng.random() < 0.4:
                parts += thing(rng, min(size, gap / 2)).moved((x + size / 2, y + 0.03, 0)).parts
            x += size + rng.uniform(0.0, 0.15)
    return Prop(tuple(parts))


def animal(rng: Rng) -> Prop:
    """Four legs, a body, a neck with a head, ears and a tail: a cat, a dog, a horse."""
    length, legs, fat = rng.uniform(0.4, 1.6), rng.uniform(0.35, 0.7), rng.uniform(0.22, 0.4)
    fur = material(rng, str(rng.choice(["cloth", "bark", "any"])), tile_m=length)
    dark, high = material(rng, "rubber"), legs * length
    body = shapes.superellipsoid((length, fat * length * 1.1, fat * length), roundness=0.9)
    parts: list[Part] = [(body.moved((0, high - 0.1 * length, 0)), fur)]
    for x in (-0.33 * length, 0.33 * length):
        for z in (-0.1 * length, 0.1 * length):
            knee = (x + rng.normal(0, 0.06) * length, 0.5 * high, z)
            path = _bent(
                (x, high + 0.1 * length, z), knee, (x + rng.normal(0, 0.08) * length, 0.0, z)
            )
            parts.append((shapes.tube(path, rng.uniform(0.03, 0.06) * length), fur))
    up, turn = rng.uniform(0.1, 0.5), rng.normal(0, 0.25)
    head = (
        0.5 * length + 0.2 * length * np.cos(turn),
        high + up * length,
        0.3 * length * np.sin(turn),
    )
    neck = _bent(
        (0.38 * length, high + 0.12 * length, 0), (0.5 * length, high + 0.2 * length, 0), head
    )
    size = rng.uniform(0.2, 0.3) * length
    face = shapes.superellipsoid((1.4 * size, size, 0.9 * size)).moved(
        (head[0] + 0.2 * size, head[1] - 0.4 * size, head[2])
    )
    parts += [(shapes.tube(neck, 0.09 * length), fur), (face, fur)]
    for z in (-0.25 * size, 0.25 * size):
        ear = shapes.cylinder(0.16 * size, 0.5 * size, top_radius=0.02 * size, sides=10)
        eye = shapes.superellipsoid((0.12 * size,) * 3, sides=10)
        parts += [
            (ear.moved((head[0], head[1] + 0.4 * size, head[2] + 1.1 * z)), fur),
            (eye.moved((head[0] + 0.72 * size, head[1] + 0.12 * size, head[2] + z)), dark),
        ]
    back = (-0.48 * length, high + 0.15 * length, 0.0)
    tip = (
        -rng.uniform(0.6, 0.9) * length,
        rng.uniform(0.3, 1.3) * high,
        rng.normal(0, 0.15) * length,
    )
    parts.append((shapes.tube(_bent(back, (-0.7 * length, back[1], 0), tip), 0.025 * length), fur))
    return Prop(tuple(parts))


def bust(rng: Rng) -> Prop:
    """A person from the chest up: head, hair or a helmet, shoulders, collar, arms."""
    skin, cloth, hair = material(rng, "skin"), material(rng, "cloth"), material(rng, "bark")
    dark, h = material(rng, "rubber"), rng.uniform(0.55, 0.7)
    parts: list[Part] = [
        (shapes.superellipsoid((0.36, h - 0.05, 0.24), roundness=0.6), cloth),
        (shapes.superellipsoid((0.52, 0.24, 0.24), roundness=0.8).moved((0, h - 0.24, 0)), cloth),
        (shapes.tube([(0, h - 0.1, 0), (0, h + 0.1, 0.02)], 0.06), skin),
        (shapes.superellipsoid((0.17, 0.25, 0.2)).moved((0, h + 0.06, 0.03)), skin),
        (shapes.superellipsoid((0.03, 0.06, 0.05), sides=12).moved((0, h + 0.14, 0.13)), skin),
    ]
    style = rng.integers(3)
    top = (
        shapes.superellipsoid((0.2, 0.2, 0.22))
        if style
        else shapes.superellipsoid((0.3, 0.32, 0.32))
    )
    rise = h + (0.15 if style else 0.04)
    parts.append(
        (top.moved((0, rise, -0.02 if style else -0.05)), hair if style else material(rng, "paint"))
    )
    if style == 2:
        parts.append((shapes.cylinder(0.19, 0.015, sides=28).moved((0, h + 0.24, 0.02)), hair))
    if rng.random() < 0.5:
        parts.append(
            (shapes.torus(0.12, 0.03).turned([[1, 0, 0], [0, 0, 1], [0, -1, 0]], (0, h, 0)), cloth)
        )
    for side in (-1, 1):
        eye = shapes.superellipsoid((0.025, 0.015, 0.01), sides=10)
        hand = (side * rng.uniform(0.1, 0.35), rng.uniform(0.0, 0.5) * h, rng.uniform(0.05, 0.35))
        arm = _bent((side * 0.22, h - 0.12, 0), (side * 0.36, 0.3 * h, 0.02), hand)
        parts += [
            (eye.moved((side * 0.035, h + 0.19, 0.125)), dark),
            (shapes.tube(arm, 0.05), cloth),
            (shapes.superellipsoid((0.09, 0.09, 0.1), sides=14).moved(hand), skin),
        ]
    return Prop(tuple(parts))


MACHINES: tuple[Callable[[Rng], Prop], ...] = (
    motorcycle, motorcycle, motorcycle, cart, contraption, contraption, contraption, animal, animal, bust, bust,
)  # fmt: skip
"""What stands in the middle of a picture; what stands more often comes more often."""
