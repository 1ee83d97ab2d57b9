"""Furnished rooms with windows, doors and lamps, and studio tables before a backdrop.

Fills a `Stage`; knows nothing of cameras or rendering.
"""

from __future__ import annotations

import itertools

import numpy as np

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.furniture import AT_WALL, FURNITURE
from e2e_deploy.train.rendering.scenes.props import Material, Part, Prop, glowing, material, thing
from e2e_deploy.train.rendering.scenes.shapes import Mesh
from e2e_deploy.train.rendering.scenes.stage import Stage
from e2e_deploy.train.rendering.scenes.textures import sky

Rng = np.random.Generator


def room(rng: Rng) -> Stage:
    """A furnished room of 2.6 to 8 m with lamps, and daylight where it has windows."""
    width, depth, height = rng.uniform(2.6, 8.0), rng.uniform(2.6, 8.0), rng.uniform(2.3, 3.4)
    daylight = rng.uniform(1.0, 6.0)
    stage = Stage(
        (-width / 2 + 0.3, 0.5, -depth / 2 + 0.3),
        (width / 2 - 0.3, min(2.0, height - 0.3), depth / 2 - 0.3),
        sky(rng, sun_to_sky=float(rng.choice([0.0, 2.0]))) * np.float32(daylight),
        close_up=0.35,
    )
    floor = shapes.quad((-width / 2, 0, depth / 2), (width, 0, 0), (0, 0, -depth))
    ceiling = shapes.quad((-width / 2, height, -depth / 2), (width, 0, 0), (0, 0, depth))
    stage.parts += [(floor, material(rng, "floor")), (ceiling, material(rng, "ceiling"))]
    paint, trim = material(rng, "wall"), material(rng, "paint")
    for side in range(4):
        look = paint if rng.random() < 0.8 else material(rng, "wall")
        along, away = (width, depth) if side % 2 == 0 else (depth, width)
        wall = _wall(rng, float(along), float(height), look, trim)
        yaw = side * np.pi / 2
        offset = (-np.sin(yaw) * away / 2, 0.0, -np.cos(yaw) * away / 2)
        stage.parts += wall.moved(offset, yaw=yaw).parts
    light = _ceiling_lights(rng, stage, float(width), float(depth), float(height))
    if rng.random() < 0.4:
        rug = shapes.box((rng.uniform(1, 2.5), 0.015, rng.uniform(1, 2)))
        stage.parts.append((rug.moved(yaw=rng.normal(0, 0.2)), material(rng, "cloth")))
    _furnish(rng, stage, float(width), float(depth))
    # All lamps of a room are one light: few emitters are sampled with little noise.
    stage.parts = [(mesh, light if any(look.radiance) else look) for mesh, look in stage.parts]
    return stage


def _furnish(rng: Rng, stage: Stage, width: float, depth: float) -> None:
    wanted = int(rng.integers(4, 5 + max(int(width * depth / 3.5), 2)))
    for _ in range(wanted):
        maker = FURNITURE[int(rng.integers(len(FURNITURE)))]
        prop = maker(rng)
        for _ in range(8):
            if maker in AT_WALL:
                side = int(rng.integers(4))
                along, away = (width, depth) if side % 2 == 0 else (depth, width)
                low, high = prop.bounds
                back = away / 2 + float(low[2]) - 0.03
                x = rng.uniform(-1, 1) * max(along / 2 - float(high[0]) - 0.05, 0)
                yaw = side * np.pi / 2
                c, s = np.cos(yaw), np.sin(yaw)
                placed = prop.moved((c * x - s * back, 0, -s * x - c * back), yaw=yaw)
            else:
                spot = rng.uniform(-0.5, 0.5, 2) * (width - 0.8, depth - 0.8)
                placed = prop.moved((spot[0], 0, spot[1]), yaw=rng.uniform(0, 2 * np.pi))
            low, high = placed.bounds
            inside = np.abs([low[0], high[0]]).max() < width / 2 + 0.02
            inside = inside and np.abs([low[2], high[2]]).max() < depth / 2 + 0.02
            if inside and stage.is_free(placed):
                stage.put(placed)
                break
    if not stage.props:
        stage.put(thing(rng, 0.5))


def _ceiling_lights(rng: Rng, stage: Stage, width: float, depth: float, height: float) -> Material:
    panel = rng.random() < 0.5
    count = int(rng.integers(1, 4))
    light = glowing(rng, rng.uniform(6, 20) if panel else rng.uniform(20, 60))
    for i in range(count):
        x = (i + 0.5) / count * width - width / 2 + rng.normal(0, 0.2)
        z = rng.uniform(-0.25, 0.25) * depth
        if panel:
            w, d = rng.uniform(0.3, 1.2), rng.uniform(0.3, 0.8)
            case = shapes.box((w + 0.04, 0.04, d + 0.04)).moved((x, height - 0.04, z))
            glass = shapes.quad((x - w / 2, height - 0.045, z - d / 2), (w, 0, 0), (0, 0, d))
            stage.parts += [(case, material(rng, "metal")), (glass, light)]
            continue
        drop = rng.uniform(0.15, 0.6)
        bulb = shapes.superellipsoid((0.25, 0.2, 0.25), sides=20)
        wire = shapes.cylinder(0.006, drop, sides=6)
        stage.parts += [
            (bulb.moved((x, height - drop - 0.15, z)), light),
            (wire.moved((x, height - drop, z)), material(rng, "metal")),
        ]
    return light


def _wall(rng: Rng, along: float, height: float, look: Material, trim: Material) -> Prop:
    """A wall facing +z, its inner face at z = 0, with windows, doors and pictures."""
    slots = max(int(along / 1.9), 1)
    edges = np.linspace(-along / 2, along / 2, slots + 1)
    parts: list[Part] = []
    thick = 0.15

    def panel(x0: float, x1: float, y0: float, y1: float) -> None:
        piece = shapes.box((x1 - x0, y1 - y0, thick), base=((x0 + x1) / 2, y0, -thick / 2))
        # One uv frame for all pieces, so that bricks run on from piece to piece.
        uvs = np.stack([piece.vertices[:, 0] + piece.vertices[:, 2], piece.vertices[:, 1]], -1)
        parts.append((Mesh(piece.vertices, piece.normals, uvs, piece.faces), look))

    for x0, x1 in itertools.pairwise(edges):
        middle, space = (x0 + x1) / 2, (x1 - x0) * 0.8
        style = rng.choice(["solid", "window", "door", "doorway", "picture"], p=_WALL_CHANCES)
        if style in ("solid", "picture"):
            panel(x0, x1, 0, height)
            if style == "picture":
                parts += _wall_picture(rng, float(middle), float(space), trim)
            continue
        w = min(rng.uniform(0.8, 1.0) if style != "window" else rng.uniform(0.7, 1.6), space)
        y0, y1 = (0.0, 2.05) if style != "window" else (rng.uniform(0.4, 1.1), height - 0.25)
        left, right = middle - w / 2, middle + w / 2
        panel(x0, left, 0, height)
        panel(right, x1, 0, height)
        panel(left, right, y1, height)
        if y0 > 0:
            panel(left, right, 0, y0)
        opening = (float(left), float(right), float(y0), float(y1))
        parts += _FILLINGS[str(style)](rng, opening, look, trim)
    if rng.random() < 0.7:
        parts.append((shapes.box((along, rng.uniform(0.05, 0.12), 0.02)), trim))
    return Prop(tuple(parts))


Opening = tuple[float, float, float, float]
_WALL_CHANCES = (0.35, 0.24, 0.13, 0.08, 0.2)


def _wall_picture(rng: Rng, x: float, space: float, trim: Material) -> list[Part]:
    w, h = min(rng.uniform(0.3, 1.2), space), rng.uniform(0.3, 0.9)
    y = rng.uniform(1.1, 1.5)
    canvas = shapes.quad((x - w / 2, y, 0.031), (w, 0, 0), (0, h, 0))
    frame = shapes.box((w + 0.06, h + 0.06, 0.03), base=(x, y - 0.03, 0.015))
    return [(frame, trim), (canvas, material(rng, "picture", tile_m=max(w, h)))]


def _window(rng: Rng, opening: Opening, look: Material, trim: Material) -> list[Part]:
    left, right, low, high = opening
    w, h, x = right - left, high - low, (left + right) / 2
    bars = [shapes.box((0.06, h, 0.06), base=(float(at), low, -0.08)) for at in (left, x, right)]
    bars += [
        shapes.box((w, 0.06, 0.06), base=(x, float(at), -0.08))
        for at in np.linspace(low, high - 0.06, int(rng.integers(2, 5)))
    ]
    sill = shapes.box((w + 0.1, 0.03, 0.25), base=(x, low, 0.0))
    parts: list[Part] = [(bar, trim) for bar in (*bars, sill)]
    if rng.random() < 0.45:
        cloth, fall = material(rng, "cloth"), rng.uniform(0.02, high + 0.1)
        for start in (left - 0.15, right - w * 0.2):
            across = np.linspace(0, w * 0.2 + 0.15, 40)
            fold = 0.12 + 0.03 * np.sin(across * rng.uniform(40, 70))
            rows = [
                np.stack([start + across, np.full(40, y), fold], -1) for y in (high + 0.1, fall)
            ]
            parts.append((shapes.surface(np.stack(rows)), cloth))
    return parts


def _door(rng: Rng, opening: Opening, look: Material, trim: Material) -> list[Part]:
    left, right, _, high = opening
    leaf = material(rng, str(rng.choice(["wood", "paint"])))
    x, w = (left + right) / 2, right - left
    parts: list[Part] = [(shapes.box((w, high, 0.04), base=(x, 0, -0.06)), leaf)]
    for y, h in ((0.2, 0.7), (1.05, 0.8)):
        parts.append((shapes.box((w * 0.7, h, 0.02), base=(x, y, -0.035)), leaf))
    knob = shapes.superellipsoid((0.06, 0.06, 0.08), sides=14).moved((right - 0.1, 1.0, 0.0))
    return [*parts, (knob, material(rng, "metal")), *_casing(opening, trim)]


def _doorway(rng: Rng, opening: Opening, look: Material, trim: Material) -> list[Part]:
    """An open door into a small dark hall."""
    left, right, _, high = opening
    a, b, far = left - 0.5, right + 0.5, -rng.uniform(1.2, 3.0)
    near, top = -0.15, high + 0.3
    floor = shapes.quad((a, 0, 0), (b - a, 0, 0), (0, 0, far))
    sides = [
        shapes.quad((a, 0, far), (b - a, 0, 0), (0, top, 0)),
        shapes.quad((a, 0, near), (0, 0, far - near), (0, top, 0)),
        shapes.quad((b, 0, far), (0, 0, near - far), (0, top, 0)),
        shapes.quad((a, top, far), (b - a, 0, 0), (0, 0, near - far)),
    ]
    parts: list[Part] = [(side, look) for side in sides]
    return [*parts, (floor, material(rng, "floor")), *_casing(opening, trim)]


def _casing(opening: Opening, trim: Material) -> list[Part]:
    left, right, _, high = opening
    posts = [
        shapes.box((0.08, high, 0.03), base=(x, 0, 0.015)) for x in (left - 0.04, right + 0.04)
    ]
    top = shapes.box((right - left + 0.16, 0.08, 0.03), base=((left + right) / 2, high, 0.015))
    return [(piece, trim) for piece in (*posts, top)]


_FILLINGS = {"window": _window, "door": _door, "doorway": _doorway}


def studio(rng: Rng) -> Stage:
    """Many things of all sizes on a floor before a curved backdrop."""
    stage = Stage(
        (-1.6, 0.3, -0.5), (1.6, 1.6, 2.4), sky(rng, sun_to_sky=float(rng.choice([0.0, 3.0]))), 0.4
    )
    bend = np.linspace(0, np.pi / 2, 16)
    run = [(8.0, 0.0), *zip(-2.5 - np.sin(bend), 1 - np.cos(bend), strict=True), (-3.5, 5.0)]
    rows = [[(x, y, z) for z, y in run] for x in (-6.0, 6.0)]
    stage.parts.append((shapes.surface(np.array(rows)), material(rng, "any", tile_m=1.5)))
    panel = shapes.quad((rng.uniform(-3, 2), 3.5, rng.uniform(-1, 3)), (1, 0, 0), (0, 0, 1))
    stage.parts.append((panel, glowing(rng, rng.uniform(5, 25))))
    for _ in range(int(rng.integers(8, 28))):
        item = thing(rng, float(rng.uniform(0.12, 0.9)))
        for _ in range(5):
            spot = rng.normal(0, 1, 2) * (1.2, 1.0)
            placed = item.moved((spot[0], 0, spot[1] - 0.4), yaw=rng.uniform(0, 2 * np.pi))
            if stage.is_free(placed, 0.0):
                stage.put(placed)
                break
    return stage
