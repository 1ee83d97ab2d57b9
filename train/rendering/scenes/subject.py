"""One thing in the middle of the picture, as people photograph things: on a floor before a wall, or outdoors.

Fills a `Stage`; knows nothing of rendering.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.furniture import (
    FURNITURE,
    bicycle,
    chair,
    figure,
    pile,
    table,
)
from e2e_deploy.train.rendering.scenes.machines import MACHINES, rack
from e2e_deploy.train.rendering.scenes.props import Material, Prop, glowing, material, thing
from e2e_deploy.train.rendering.scenes.stage import Stage
from e2e_deploy.train.rendering.scenes.street import building, bush, car, fence, tree
from e2e_deploy.train.rendering.scenes.textures import sky

Rng = np.random.Generator


def _heap(rng: Rng) -> Prop:
    """A few things close together, as on a table."""
    parts = list(thing(rng, float(rng.uniform(0.5, 0.9))).parts)
    if rng.random() < 0.5:  # on a plate
        plate = shapes.lathe(
            [(0, 0), (0.35, 0), (0.62, 0.06), (0.6, 0.07), (0.34, 0.02), (0, 0.02)]
        )
        parts.append((plate, material(rng, "paint")))
    for _ in range(int(rng.integers(1, 6))):
        item, angle = thing(rng, float(rng.uniform(0.15, 0.5))), rng.uniform(0, 6.28)
        out = rng.uniform(0.6, 1.1)
        parts += item.moved(
            (out * np.sin(angle), 0, out * np.cos(angle)), yaw=rng.uniform(0, 6.28)
        ).parts
    return Prop(tuple(parts))


_OTHERS: tuple[Callable[[Rng], Prop], ...] = (
    _heap, _heap, bicycle, bicycle, chair, table, figure, figure, pile, rack, car,
)  # fmt: skip


def subject(rng: Rng) -> Stage:
    """A thing of one to two metres, what is behind it, light from anywhere."""
    makers = MACHINES if rng.random() < 0.6 else _OTHERS
    thing_itself = makers[int(rng.integers(len(makers)))](rng)
    placed = thing_itself.moved((0, 0, 0), yaw=rng.uniform(0, 2 * np.pi))
    size = float(np.ptp(np.asarray(placed.bounds), axis=0).max())
    sun = float(rng.choice([0.0, 0.0, rng.uniform(0.5, 6)]))
    light = np.float32(rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.5, 2)]))
    far = 12.0 + 4 * size
    stage = Stage((-far, 0.1, -far), (far, far, far), sky(rng, sun_to_sky=sun) * light, 0.0)
    stage.put(placed)
    stage.subject = placed
    if rng.random() < 0.7:
        _before_a_wall(rng, stage, size)
    else:
        _outdoors(rng, stage, size)
    return stage


def _before_a_wall(rng: Rng, stage: Stage, size: float) -> None:
    """A floor, one to three walls with posters, what stands at them, lamps, perhaps a ceiling."""
    back = -(size / 2 + float(rng.choice([rng.uniform(0.1, 0.8), rng.uniform(0.8, 4)])))
    half, height = size / 2 + rng.uniform(1.0, 3.5), rng.uniform(2.3, 3.5)
    front = 6.0 + 3 * size
    floor = material(rng, "bold" if rng.random() < 0.35 else "floor")
    paint = material(rng, "bold" if rng.random() < 0.2 else "wall")
    stage.parts.append(
        (shapes.quad((-half - 8, 0, front), (2 * half + 16, 0, 0), (0, 0, back - front)), floor)
    )
    stage.parts.append(
        (shapes.quad((-half - 8, 0, back), (2 * half + 16, 0, 0), (0, height, 0)), paint)
    )
    if rng.random() < 0.5:
        side = float(rng.choice([-1, 1]))
        wall = shapes.box((0.1, height, front - back), base=(side * half, 0, (front + back) / 2))
        stage.parts.append((wall, paint if rng.random() < 0.7 else material(rng, "wall")))
    for _ in range(int(rng.integers(0, 6))):
        w, h, x = rng.uniform(0.3, 1.5), rng.uniform(0.3, 1.2), rng.uniform(-half, half)
        poster = shapes.quad((x, rng.uniform(0.3, height - h), back + 0.012), (w, 0, 0), (0, h, 0))
        role = "picture" if rng.random() < 0.7 else "bold"
        stage.parts.append((poster, material(rng, role, tile_m=max(w, h))))
    if rng.random() < 0.3:
        rug = shapes.box((rng.uniform(0.6, 1.5) * size, 0.012, rng.uniform(0.6, 1.2) * size))
        stage.parts.append((rug.moved(yaw=rng.normal(0, 0.3)), material(rng, "cloth")))
    lamps = _lamps(rng, stage, size, height)
    if lamps and rng.random() < 0.5:
        lid = shapes.quad((-half - 8, height, back), (2 * half + 16, 0, 0), (0, 0, front - back))
        stage.parts.append((lid, material(rng, "ceiling")))
    _clutter(rng, stage, back, half)


def _lamps(rng: Rng, stage: Stage, size: float, height: float) -> bool:
    """Panels and bulbs of one light; whether there is any."""
    count = int(rng.integers(0, 4))
    light = glowing(rng, float(rng.uniform(6, 40)))
    for _ in range(count):
        x, z = rng.uniform(-2, 2), rng.uniform(-0.5, 3)
        if rng.random() < 0.5:
            w, d = rng.uniform(0.2, 1.4), rng.uniform(0.2, 1.0)
            lamp = shapes.quad((x - w / 2, height - 0.02, z - d / 2), (w, 0, 0), (0, 0, d))
        else:  # beside the camera or above: hard or soft by its size
            bulb = shapes.superellipsoid((rng.uniform(0.1, 0.5),) * 3, sides=16)
            lamp = bulb.moved((x * 1.5, rng.uniform(1.2, height - 0.6), z + size))
        stage.parts.append((lamp, light))
    return count > 0


def _clutter(rng: Rng, stage: Stage, back: float, half: float) -> None:
    """Racks, furniture and things along the wall and beside the subject."""
    for _ in range(int(rng.integers(0, 9))):
        style = rng.random()
        prop = rack(rng) if style < 0.35 else thing(rng, float(rng.uniform(0.2, 0.8)))
        if style > 0.7:
            prop = FURNITURE[int(rng.integers(len(FURNITURE)))](rng)
        low, _ = prop.bounds
        for _ in range(4):
            x = rng.uniform(-1, 1) * half
            z = (
                back + 0.02 - float(low[2])
                if style < 0.35 or rng.random() < 0.6
                else rng.uniform(back, 1)
            )
            yaw = 0.0 if style < 0.35 else rng.normal(0, 0.3)
            placed = prop.moved((x, 0, z), yaw=yaw)
            if stage.is_free(placed) and float(placed.bounds[0][2]) > back - 0.02:
                stage.put(placed)
                break


def _outdoors(rng: Rng, stage: Stage, size: float) -> None:
    """Ground, and a street, a garden or nothing behind."""
    ground: Material = material(rng, str(rng.choice(["ground", "road", "bold", "floor"])))
    stage.parts.append((shapes.quad((-120, 0, 120), (240, 0, 0), (0, 0, -240)), ground))
    makers = (building, tree, bush, fence, car, figure, tree)
    for _ in range(int(rng.integers(2, 14))):
        prop = makers[int(rng.integers(len(makers)))](rng)
        _, high = prop.bounds
        z = -(size / 2 + rng.exponential(7.0) + max(float(high[2]), float(high[0])) + 0.3)
        placed = prop.moved(
            (rng.normal(0, 3 - 0.6 * z), 0, z), yaw=float(rng.choice([0, rng.uniform(0, 6.28)]))
        )
        if stage.is_free(placed):
            stage.put(placed)
