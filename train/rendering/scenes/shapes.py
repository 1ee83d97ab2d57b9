"""Triangle meshes of simple solids: boxes, lathes, tubes, superellipsoids, blobs, terrain.

Knows geometry only: right-handed axes, y up, metres; normals point outward; uvs are metres along
the surface, so that one texture keeps its scale on every shape. Knows nothing of materials or scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Vec3 = tuple[float, float, float]

_PLACE_HASH = np.array([73856093, 19349663 << 20, 83492791 << 34])


@dataclass(frozen=True)
class Mesh:
    """Triangles with one normal and one uv per vertex.

    Attributes:
        vertices: float32 `[N, 3]`, metres.
        normals: float32 `[N, 3]`, unit length, outward.
        uvs: float32 `[N, 2]`, metres along the surface.
        faces: uint32 `[M, 3]`, counter-clockwise seen from outside.
    """

    vertices: F32
    normals: F32
    uvs: F32
    faces: npt.NDArray[np.uint32]

    def moved(self, offset: Sequence[float] = (0.0, 0.0, 0.0), *, yaw: float = 0.0) -> Mesh:
        """A copy turned by ``yaw`` radians about the y axis, then shifted by ``offset`` metres."""
        return self.turned(_turn_y(yaw), offset)

    def turned(self, rotation_33: npt.ArrayLike, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
        """A copy rotated by the matrix ``rotation_33``, then shifted by ``offset`` metres."""
        rotation = np.asarray(rotation_33, np.float64)
        vertices = self.vertices @ rotation.T + np.asarray(offset, np.float64)
        normals = self.normals @ rotation.T
        return Mesh(vertices.astype(np.float32), normals.astype(np.float32), self.uvs, self.faces)

    @property
    def bounds(self) -> tuple[F32, F32]:
        """The smallest and the largest corner, each float32 `[3]`, metres."""
        return self.vertices.min(axis=0), self.vertices.max(axis=0)


def merged(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh that holds the triangles of all ``meshes``."""
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uvs for m in meshes]),
        np.concatenate(
            [m.faces + np.uint32(start) for m, start in zip(meshes, starts, strict=True)]
        ),
    )


def quad(corner: Vec3, edge_u: Vec3, edge_v: Vec3) -> Mesh:
    """A parallelogram; its normal is ``edge_u`` x ``edge_v``."""
    origin, u, v = (np.asarray(a, np.float64) for a in (corner, edge_u, edge_v))
    normal = np.cross(u, v)
    normal /= np.linalg.norm(normal)
    length_u, length_v = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    return Mesh(
        np.stack([origin, origin + u, origin + u + v, origin + v]).astype(np.float32),
        np.tile(normal, (4, 1)).astype(np.float32),
        np.array([[0, 0], [length_u, 0], [length_u, length_v], [0, length_v]], np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
    )


def box(size: Vec3, *, base: Vec3 = (0.0, 0.0, 0.0)) -> Mesh:
    """An axis-aligned box of ``size`` metres whose bottom face is centred on ``base``."""
    extent = np.asarray(size, np.float64)
    offset = np.asarray(base) - [extent[0] / 2, 0.0, extent[2] / 2]
    return Mesh(
        (_CUBE.vertices * extent + offset).astype(np.float32),
        _CUBE.normals,
        (_CUBE.uvs * extent[_CUBE_UV_AXES]).astype(np.float32),
        _CUBE.faces,
    )


def surface(points_UV3: npt.ArrayLike) -> Mesh:
    """A smooth surface through a grid of points; the normal is d/du x d/dv.

    Points that coincide (a seam, a pole) share one normal, so that closed grids have no visible seam.
    """
    points = np.asarray(points_UV3, np.float64)
    count_u, count_v = points.shape[:2]
    index = np.arange(count_u * count_v).reshape(count_u, count_v)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    )
    vertices = points.reshape(-1, 3)
    corner = vertices[faces]
    face_normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    solid = np.linalg.norm(face_normals, axis=1) > 1e-12
    faces, face_normals = faces[solid], face_normals[solid]
    uvs = np.stack(
        [
            _mean_length(points, axis=0)[:, None].repeat(count_v, 1),
            _mean_length(points, axis=1)[None, :].repeat(count_u, 0),
        ],
        axis=-1,
    )
    return Mesh(
        vertices.astype(np.float32),
        _vertex_normals(vertices, faces, face_normals).astype(np.float32),
        uvs.reshape(-1, 2).astype(np.float32),
        faces.astype(np.uint32),
    )


def lathe(profile: Sequence[tuple[float, float]], *, sides: int = 32, smooth: bool = False) -> Mesh:
    """Turns a profile of (radius, height) points, bottom to top, about the y axis.

    With ``smooth`` the profile is one curve; otherwise each segment keeps its sharp edges.
    """
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    angle[-1] = 0.0  # the seam closes exactly
    circle = np.stack([np.sin(angle), np.cos(angle)], -1)

    def turned(part: F64) -> Mesh:
        ring = circle[:, None, :] * part[None, :, :1]
        height = np.broadcast_to(part[None, :, 1], ring.shape[:2])
        return surface(np.stack([ring[..., 0], height, ring[..., 1]], -1))

    points = np.asarray(profile, np.float64)
    if smooth:
        return turned(points)
    return merged([turned(points[i : i + 2]) for i in range(len(points) - 1)])


def cylinder(
    radius: float, height: float, *, top_radius: float | None = None, sides: int = 24
) -> Mesh:
    """A closed cylinder, or a frustum with ``top_radius``, standing on the origin."""
    top = radius if top_radius is None else top_radius
    return lathe([(0, 0), (radius, 0), (top, height), (0, height)], sides=sides)


def tube(path_N3: npt.ArrayLike, radius: float, *, closed: bool = False, sides: int = 10) -> Mesh:
    """A round tube of ``radius`` metres along a path; ``closed`` joins its ends (a torus)."""
    path = np.asarray(path_N3, np.float64)
    if closed:
        path = np.concatenate([path, path[:1]])
        ahead = np.roll(path[:-1], -1, axis=0) - np.roll(path[:-1], 1, axis=0)
        tangent = np.concatenate([ahead, ahead[:1]])
    else:
        tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # One reference direction for the whole path, the one least along it, keeps the rings untwisted.
    reference = np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))]
    side = np.cross(tangent, reference)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangent, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    angle[-1] = 0.0
    ring = np.cos(angle)[:, None, None] * side + np.sin(angle)[:, None, None] * up
    body = surface(path + radius * ring)
    if closed:
        return body
    caps = [_disc(path[0], -tangent[0], radius, sides), _disc(path[-1], tangent[-1], radius, sides)]
    return merged([body, *caps])


def torus(radius: float, tube_radius: float, *, sides: int = 32) -> Mesh:
    """A ring about the z axis through the origin, like a wheel seen along z."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    path = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros(sides)], -1)
    return tube(path, tube_radius, closed=True)


def superellipsoid(size: Vec3, *, roundness: float = 1.0, sides: int = 32) -> Mesh:
    """A superellipsoid of ``size`` metres standing on the origin.

    Args:
        size: full width, height, depth.
        roundness: 1 gives an ellipsoid, towards 0 a box with rounded edges.
        sides: grid points about the y axis; half as many from pole to pole.
    """
    around, along = _sphere_angles(sides)

    def power(x: F64) -> F64:
        return np.sign(x) * np.abs(x) ** roundness

    ring = power(np.cos(along))
    unit = np.stack(
        [ring * power(np.sin(around)), power(np.sin(along)), ring * power(np.cos(around))], -1
    )
    points = unit * (np.asarray(size) / 2)
    points[..., 1] += size[1] / 2
    return surface(points)


def blob(
    radius: float, rng: np.random.Generator, *, bumpiness: float = 0.3, sides: int = 40
) -> Mesh:
    """A sphere displaced by a few random waves, resting near the origin: a boulder, a tree crown."""
    around, along = _sphere_angles(sides)
    unit = np.stack(
        [np.cos(along) * np.sin(around), np.sin(along), np.cos(along) * np.cos(around)], -1
    )
    waves = rng.normal(size=(8, 3)) * rng.uniform(1.5, 5.0, size=(8, 1))
    phases = rng.uniform(0, 2 * np.pi, 8)
    height = np.sin(unit @ waves.T + phases).mean(axis=-1)
    points = unit * radius * (1 + bumpiness * height)[..., None]
    points[..., 1] += radius
    return surface(points)


def terrain(height_UV: npt.ArrayLike, size_m: float) -> Mesh:
    """A square field of heights in metres, centred on the origin, ``size_m`` metres wide."""
    height = np.asarray(height_UV, np.float64)
    line = np.linspace(-size_m / 2, size_m / 2, height.shape[0])
    z, x = np.meshgrid(line, line, indexing="ij")
    return surface(np.stack([x, height, z], -1))


def _sphere_angles(sides: int) -> tuple[F64, F64]:
    around = np.linspace(0, 2 * np.pi, sides + 1)
    along = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 1)
    grid_around, grid_along = np.meshgrid(around, along, indexing="ij")
    return grid_around, grid_along


def _disc(centre: F64, normal: F64, radius: float, sides: int) -> Mesh:
    side = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    side /= np.linalg.norm(side)
    up = np.cross(normal, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    rim = radius * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * up)
    return surface(np.stack([np.zeros_like(rim), rim], axis=0) + centre)


def _vertex_normals(vertices: F64, faces: npt.NDArray[np.int64], face_normals: F64) -> F64:
    """Area-weighted normals; vertices at one place (1 um) share theirs."""
    grid = np.round(vertices * 1e6).astype(np.int64)
    # One integer per place (wrapping products of odd primes): much faster than comparing rows.
    _, place = np.unique(grid @ _PLACE_HASH, return_inverse=True)
    sums = np.zeros((place.max() + 1, 3))
    for corner in range(3):
        np.add.at(sums, place[faces[:, corner]], face_normals)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    sums = np.where(length > 0, sums / np.maximum(length, 1e-30), [0.0, 1.0, 0.0])
    normals: F64 = sums[place]
    return normals


def _mean_length(points_UV3: F64, *, axis: int) -> F64:
    steps = np.linalg.norm(np.diff(points_UV3, axis=axis), axis=-1).mean(axis=1 - axis)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _turn_y(yaw: float) -> F64:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


_CUBE = merged(
    [
        quad((0, 0, 1), (1, 0, 0), (0, 1, 0)),
        quad((1, 0, 0), (-1, 0, 0), (0, 1, 0)),
        quad((1, 0, 1), (0, 0, -1), (0, 1, 0)),
        quad((0, 0, 0), (0, 0, 1), (0, 1, 0)),
        quad((0, 1, 1), (1, 0, 0), (0, 0, -1)),
        quad((0, 0, 0), (1, 0, 0), (0, 0, 1)),
    ]
)
# Which axis each uv of the cube's 24 vertices runs along.
_CUBE_UV_AXES = np.repeat([[0, 1], [0, 1], [2, 1], [2, 1], [0, 2], [0, 2]], 4, axis=0)
