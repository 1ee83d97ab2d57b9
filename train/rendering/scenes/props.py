"""Materials, and the small things that stand on floors, tables and shelves.

A prop stands on the origin, centred on it, its front towards +z; metres, y up. Knows nothing of
rooms, streets, cameras or rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from e2e_deploy.train.rendering.scenes import shapes
from e2e_deploy.train.rendering.scenes.shapes import Mesh, Vec3
from e2e_deploy.train.rendering.scenes.textures import KINDS, colour, texture

F32 = npt.NDArray[np.float32]
Rng = np.random.Generator
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface looks; two materials are the same only when they are one object.

    Attributes:
        texture: linear RGB, float32 `[256, 256, 3]` in [0, 1]; repeats.
        tile_m: metres that one repeat covers.
        roughness: 0 mirror .. 1 matt.
        metallic: 0 paint .. 1 metal.
        specular: strength of the highlight on paint, 0..1.
        radiance: light the surface gives off, linear RGB; all 0 for ordinary surfaces.
    """

    texture: F32
    tile_m: float = 1.0
    roughness: float = 0.7
    metallic: float = 0.0
    specular: float = 0.5
    radiance: Vec3 = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Role:
    """What a kind of surface may look like: texture kinds and ranges to draw from."""

    kinds: tuple[str, ...]
    hue: Range = (0.0, 1.0)
    saturation: Range = (0.0, 0.7)
    value: Range = (0.15, 0.9)
    tile_m: Range = (0.4, 1.5)
    roughness: Range = (0.2, 0.9)
    metallic: Range = (0.0, 0.0)


ROLES = {
    "wall": Role(
        ("plain", "plaster", "plaster", "plaster", "stripes", "clouded", "bricks", "tiles", "dots"),
        saturation=(0.0, 0.35),
        value=(0.5, 0.95),
        tile_m=(0.8, 3.0),
        roughness=(0.5, 1.0),
    ),
    "floor": Role(
        ("planks", "planks", "tiles", "checker", "marble", "fabric", "speckle", "plaster"),
        hue=(0.02, 0.15),
        saturation=(0.0, 0.6),
        value=(0.2, 0.85),
        tile_m=(0.8, 3.0),
        roughness=(0.2, 0.9),
    ),
    "ceiling": Role(("plain", "plaster"), saturation=(0.0, 0.1), value=(0.7, 0.95), tile_m=(2, 4)),
    "wood": Role(("wood", "wood", "plain"), hue=(0.03, 0.12), saturation=(0.2, 0.7)),
    "cloth": Role(
        ("fabric", "fabric", "plain", "stripes", "checker", "clouded", "dots"),
        roughness=(0.8, 1.0),
    ),
    "metal": Role(
        ("plain", "plaster"), saturation=(0.0, 0.2), roughness=(0.15, 0.5), metallic=(0.6, 1.0)
    ),
    "paint": Role(("plain", "plain", "plaster", "gradient"), roughness=(0.15, 0.7)),
    "any": Role(tuple(KINDS), saturation=(0.0, 0.9), tile_m=(0.15, 1.0), roughness=(0.15, 1.0)),
    "picture": Role(("picture",), saturation=(0.0, 0.9)),
    "leaf": Role(("grass",), tile_m=(0.3, 1.2), roughness=(0.5, 1.0)),
    "bark": Role(
        ("wood", "plaster"), hue=(0.05, 0.1), saturation=(0.1, 0.4), value=(0.2, 0.5),
        roughness=(0.8, 1.0),
    ),
    "facade": Role(
        ("facade", "facade", "bricks", "plaster"), hue=(0.0, 0.16), saturation=(0.0, 0.4),
        value=(0.4, 0.9), tile_m=(4, 11), roughness=(0.5, 1.0),
    ),
    "road": Role(
        ("speckle", "plaster"), saturation=(0.0, 0.1), value=(0.25, 0.55), tile_m=(2, 5),
        roughness=(0.7, 1.0),
    ),
    "lacquer": Role(
        ("plain", "plain", "gradient"), saturation=(0.4, 1.0), value=(0.3, 1.0), roughness=(0.05, 0.4)
    ),
    "rubber": Role(("plain", "plaster"), saturation=(0.0, 0.15), value=(0.04, 0.25), roughness=(0.5, 1.0)),
    "chrome": Role(
        ("plain",), saturation=(0.0, 0.1), value=(0.6, 0.95), roughness=(0.05, 0.25), metallic=(0.9, 1.0)
    ),
    "skin": Role(
        ("plain", "plaster"), hue=(0.02, 0.09), saturation=(0.25, 0.6), value=(0.25, 0.95), roughness=(0.4, 0.7)
    ),
    "bold": Role(
        ("checker", "stripes", "dots", "tiles", "picture", "bricks", "facade"), saturation=(0.0, 1.0),
        value=(0.0, 1.0), tile_m=(0.2, 1.5), roughness=(0.3, 1.0),
    ),
    "ground": Role(
        ("grass", "grass", "speckle", "clouded", "plaster", "tiles", "bricks"), hue=(0.05, 0.3),
        saturation=(0.05, 0.5), value=(0.25, 0.7), tile_m=(1.5, 6), roughness=(0.8, 1.0),
    ),
}  # fmt: skip


def material(rng: Rng, role: str, *, tile_m: float | None = None) -> Material:
    """A random material for one of the ``ROLES``."""
    look = ROLES[role]
    base = colour(rng, hue=look.hue, saturation=look.saturation, value=look.value)
    return Material(
        texture(rng, str(rng.choice(look.kinds)), base),
        tile_m if tile_m is not None else float(rng.uniform(*look.tile_m)),
        roughness=float(rng.uniform(*look.roughness)),
        metallic=float(rng.uniform(*look.metallic)),
        specular=float(rng.uniform(0.2, 0.6)),
    )


def glowing(rng: Rng, strength: float) -> Material:
    """A lamp surface: warm to cold white with a radiance of about ``strength``."""
    warmth = rng.uniform(0.0, 0.5)
    tint = np.array([1.0, 1.0 - 0.3 * warmth, 1.0 - 0.7 * warmth])
    radiance = tuple(float(v) for v in tint * strength)
    return Material(
        texture(rng, "plain", tint.astype(np.float32) * 0.8),
        radiance=(radiance[0], radiance[1], radiance[2]),
    )


Part = tuple[Mesh, Material]


@dataclass(frozen=True)
class Prop:
    """Meshes with their materials that move together.

    Attributes:
        parts: each mesh with its material.
        rests: flat places where smaller things may stand: (x, y, z of the centre, half width in m).
    """

    parts: tuple[Part, ...]
    rests: tuple[tuple[float, float, float, float], ...] = ()

    def moved(self, offset: Sequence[float], *, yaw: float = 0.0) -> Prop:
        """A copy turned by ``yaw`` radians about the y axis, then shifted by ``offset`` metres."""
        c, s = float(np.cos(yaw)), float(np.sin(yaw))
        dx, dy, dz = (float(v) for v in offset)
        return Prop(
            tuple((mesh.moved(offset, yaw=yaw), look) for mesh, look in self.parts),
            tuple(
                (c * x + s * z + dx, y + dy, c * z - s * x + dz, half)
                for x, y, z, half in self.rests
            ),
        )

    @property
    def bounds(self) -> tuple[F32, F32]:
        """The smallest and the largest corner, each float32 `[3]`, metres."""
        corners = [mesh.bounds for mesh, _ in self.parts]
        return np.min([c[0] for c in corners], axis=0), np.max([c[1] for c in corners], axis=0)

    def with_things(self, rng: Rng, chance: float) -> Prop:
        """The prop with a small thing on each resting place, each with probability ``chance``."""
        added: list[Part] = []
        for x, y, z, half in self.rests:
            if rng.random() < chance:
                size = min(float(rng.uniform(0.1, 0.35)), 1.5 * half)
                slack = max(half - size / 2, 0.0)
                spot = (x + rng.uniform(-slack, slack), y, z + rng.uniform(-slack, slack))
                added += thing(rng, size).moved(spot, yaw=rng.uniform(0, 6.28)).parts
        return replace(self, parts=(*self.parts, *added))


def thing(rng: Rng, size_m: float) -> Prop:
    """A random small thing, about ``size_m`` metres wide."""
    maker = THINGS[int(rng.integers(len(THINGS)))]
    return maker(rng, size_m)


def _crate(rng: Rng, s: float) -> Prop:
    w, h, d = (float(v) for v in s * rng.uniform(0.5, 1.0, 3))
    lid = shapes.box((w * 0.9, 0.02 * s, d * 0.9), base=(0, h, 0))
    look = material(rng, "any", tile_m=s)
    return Prop(((shapes.box((w, h, d)), look), (lid, material(rng, "paint"))))


def _books(rng: Rng, s: float) -> Prop:
    parts: list[Part] = []
    y = 0.0
    for _ in range(int(rng.integers(1, 6))):
        h = s * rng.uniform(0.06, 0.2)
        book = shapes.box((s * rng.uniform(0.6, 0.95), h, s * rng.uniform(0.5, 0.7)))
        look = material(rng, "any" if rng.random() < 0.5 else "paint", tile_m=s)
        parts.append((book.moved((0, y, 0), yaw=rng.normal(0, 0.2)), look))
        y += h
    return Prop(tuple(parts))


def _vase(rng: Rng, s: float) -> Prop:
    height = s * rng.uniform(1.0, 2.0)
    at = np.linspace(0, 1, 24)
    knots = np.linspace(0, 1, 5)
    radius = np.interp(at, knots, s * rng.uniform(0.15, 0.5, 5))
    radius = np.convolve(np.pad(radius, 3, mode="edge"), np.full(7, 1 / 7), mode="valid")
    profile = [(0.0, 0.0), *zip(radius, at * height, strict=True), (0.0, height * 0.96)]
    return Prop(((shapes.lathe(profile, smooth=True), material(rng, "any", tile_m=s)),))


def _bottle(rng: Rng, s: float) -> Prop:
    r, h = s * rng.uniform(0.15, 0.3), s * rng.uniform(0.9, 1.8)
    profile = [(0, 0), (r, 0), (r, 0.6 * h), (0.35 * r, 0.8 * h), (0.35 * r, h), (0, h)]
    label = shapes.lathe([(1.01 * r, 0.2 * h), (1.01 * r, 0.5 * h)])
    return Prop(
        (
            (shapes.lathe(profile), material(rng, "paint")),
            (label, material(rng, "picture", tile_m=s)),
        )
    )


def _cup(rng: Rng, s: float) -> Prop:
    r, h = 0.35 * s, s * rng.uniform(0.6, 1.0)
    look = material(rng, "paint")
    wall = [(0, 0), (0.8 * r, 0), (r, h), (0.9 * r, h), (0.7 * r, 0.1 * h), (0, 0.1 * h)]
    handle = shapes.torus(0.3 * h, 0.06 * h, sides=20).moved((r, 0.5 * h, 0))
    return Prop(((shapes.lathe(wall), look), (handle, look)))


def _ball(rng: Rng, s: float) -> Prop:
    return Prop(((shapes.superellipsoid((s, s, s), sides=40), material(rng, "any", tile_m=s)),))


def _rounded(rng: Rng, s: float) -> Prop:
    w, h, d = (float(v) for v in s * rng.uniform(0.4, 1.1, 3))
    solid = shapes.superellipsoid((w, h, d), roundness=float(rng.uniform(0.15, 1.6)), sides=40)
    return Prop(((solid, material(rng, "any", tile_m=s)),))


def _rock(rng: Rng, s: float) -> Prop:
    solid = shapes.blob(s / 2, rng, bumpiness=float(rng.uniform(0.2, 0.7)))
    return Prop(((solid.moved((0, -float(solid.bounds[0][1]), 0)), material(rng, "any")),))


def _ring(rng: Rng, s: float) -> Prop:
    thick = s * rng.uniform(0.05, 0.15)
    ring = shapes.torus(s / 2 - thick, thick).moved((0, s / 2, 0))
    return Prop(((ring, material(rng, "any", tile_m=s)),))


def _cone(rng: Rng, s: float) -> Prop:
    solid = shapes.cylinder(s / 2, s * rng.uniform(0.6, 1.6), top_radius=s * rng.uniform(0, 0.5))
    return Prop(((solid, material(rng, "any", tile_m=s)),))


def _frame(rng: Rng, s: float) -> Prop:
    """Thin bars between random joints: the wires and pipes of machines."""
    joints = s * (rng.random((7, 3)) - [0.5, 0.0, 0.5])
    joints[:, 1] += 0.05 * s
    looks = [material(rng, "metal"), material(rng, "paint")]
    pairs = rng.permutation(7)
    bars = [
        (shapes.tube(joints[[a, b]], s * float(rng.uniform(0.01, 0.04))), looks[i % 2])
        for i, (a, b) in enumerate(zip(pairs, np.roll(pairs, 1), strict=True))
    ]
    wheel = shapes.torus(0.3 * s, 0.04 * s).moved((0, 0.34 * s, 0.1 * s))
    return Prop((*bars, (wheel, looks[0])))


THINGS: tuple[Callable[[Rng, float], Prop], ...] = (
    _crate, _books, _vase, _bottle, _cup, _ball, _rounded, _rock, _ring, _cone, _frame,
)  # fmt: skip
"""Makers of small things: each takes (rng, size in metres)."""
