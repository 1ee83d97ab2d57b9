"""Streets between buildings, and parks, under an open sky.

Fills a `Stage`; knows nothing of cameras or rendering.
"""

from __future__ import annotations

import numpy as np

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.props import material, thing
from e2e_deploy.train.rendering.scenes.stage import Stage
from e2e_deploy.train.rendering.scenes.street import STREET, building
from e2e_deploy.train.rendering.scenes.textures import noise, sky

Rng = np.random.Generator


def outdoor(rng: Rng) -> Stage:
    """A street with buildings on both sides, or a park, under an open sky."""
    has_road = rng.random() < 0.6
    half = rng.uniform(2.5, 5.0)
    bumps = 0.0 if has_road else rng.uniform(0.0, 1.2)
    stage = Stage(
        (-7.0, 0.6 + bumps, -4.0),
        (7.0, float(rng.choice([2.2, 2.2, 6.0])) + bumps, 6.0),
        sky(rng, sun_to_sky=float(rng.choice([0.0, rng.uniform(1, 6)]))),
        close_up=0.2,
    )
    height = np.ascontiguousarray(bumps * noise(rng, cells=(8, 8), octaves=4)[::2, ::2])
    size = 240.0

    def ground(x: float, z: float) -> float:
        row, column = (int(np.clip((v / size + 0.5) * 127, 0, 126)) for v in (z, x))
        return float(height[row : row + 2, column : column + 2].min()) - 0.03

    stage.parts.append((shapes.terrain(height, size), material(rng, "ground")))
    if has_road:
        _road(rng, stage, float(half))
    for side in (-1, 1):
        if has_road or rng.random() < 0.4:
            z = rng.uniform(2, 12)
            while z > -70 and rng.random() < 0.9:
                house = building(rng)
                low, high = house.bounds
                yaw = -side * np.pi / 2
                x = side * (half + rng.uniform(2.5, 9) + float(high[2]))
                z -= float(high[0] - low[0]) / 2
                placed = house.moved((x, -0.05, z), yaw=yaw)
                if stage.is_free(placed):
                    stage.put(placed)
                z -= float(high[0] - low[0]) / 2 + rng.uniform(0, 6)
    looks = [maker(rng) for maker in rng.permutation(np.array(STREET, dtype=object))[:9]]
    for _ in range(int(rng.integers(14, 40))):
        prop = looks[int(rng.integers(len(looks)))]
        z = 6.0 - rng.exponential(14.0)
        x = rng.normal(0, 4 - 0.25 * z) if not has_road else _beside(rng, half)
        yaw = rng.uniform(0, 2 * np.pi) if not has_road else rng.choice([0, np.pi / 2, -np.pi / 2])
        placed = prop.moved((x, ground(x, z), z), yaw=float(yaw + rng.normal(0, 0.1)))
        if stage.is_free(placed):
            stage.put(placed)
    if not stage.props:
        stage.put(thing(rng, 1.0).moved((0, ground(0, 0), 0)))
    return stage


def _beside(rng: Rng, half: float) -> float:
    return float(rng.choice([-1, 1]) * (half + rng.uniform(-1.5, 3.0)))


def _road(rng: Rng, stage: Stage, half: float) -> None:
    road = shapes.quad((-half, 0.01, 20), (2 * half, 0, 0), (0, 0, -140))
    stage.parts.append((road, material(rng, "road")))
    if rng.random() < 0.8:
        walk = material(rng, "road" if rng.random() < 0.5 else "ground")
        for x in (-half - 1.0, half + 1.0):
            stage.parts.append((shapes.box((2.0, 0.13, 140.0), base=(x, 0, -50)), walk))
    if rng.random() < 0.7:
        paint = material(rng, "ceiling")
        marks = [
            shapes.quad((-0.07, 0.02, float(z)), (0.14, 0, 0), (0, 0, -2))
            for z in range(15, -90, -5)
        ]
        stage.parts.append((shapes.merged(marks), paint))
