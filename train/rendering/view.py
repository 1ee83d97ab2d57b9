"""From a scene as data to a picture with exact depth and normals, with Mitsuba.

Light comes from path tracing, geometry from one ray through each pixel centre. Mitsuba's variant is chosen by
``render_variant``; one set before with ``mitsuba.set_variant`` is kept. Does not know: files, data sets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.packages import require
from e2e_deploy.train.rendering.develop import auto_exposure, denoise, develop
from e2e_deploy.train.rendering.scenes.props import Material
from e2e_deploy.train.rendering.scenes.scenes import SceneCamera, SceneSpec
from e2e_deploy.train.rendering.scenes.shapes import Mesh, merged
from e2e_deploy.train.rendering.scenes.textures import TEXTURE_SIZE
from e2e_deploy.train.rendering.variant import choose_variant

Float32 = npt.NDArray[np.float32]
Size = tuple[int, int]

_BOUNCES = 3
_PREVIEW_HW = (24, 32)
_FAR_M = 65.0
_MESH_STEP = 16
_UP_33 = np.tile(np.array([0.0, 1.0, 0.0], np.float32), (3, 1))


@dataclass(frozen=True)
class LoadedScene:
    """A scene in the renderer's memory: ``spec`` and Mitsuba's scene made from it."""

    spec: SceneSpec
    mitsuba_scene: Any


@dataclass(frozen=True)
class View:
    """One picture with its geometry.

    Attributes:
        rgb: uint8 `[H, W, 3]`.
        depth_m: float32 `[H, W]`, planar depth at the pixel centres, metres; 0 where the sky is.
        normals: float32 `[H, W, 3]`, x right, y up, z toward the viewer, unit; 0 where the sky is.
        exposure: gain the picture was developed with; give it to the next views of a moving camera.
    """

    rgb: npt.NDArray[np.uint8]
    depth_m: Float32
    normals: Float32
    exposure: float


def load_scene(spec: SceneSpec) -> LoadedScene:
    """Hands the meshes, materials and the sky of ``spec`` to Mitsuba.

    Raises:
        UnavailableError: mitsuba is not installed.
    """
    mi = require("mitsuba", "train")
    choose_variant()
    by_material: dict[int, tuple[Material, list[Mesh]]] = {}
    for mesh, look in spec.parts:
        by_material.setdefault(id(look), (look, []))[1].append(mesh)
    description: dict[str, Any] = {
        "type": "scene",
        "sky": {"type": "envmap", "bitmap": mi.Bitmap(spec.sky)},
    }
    groups = sorted(by_material.values(), key=lambda group: not any(group[0].radiance))
    # Mitsuba compiles its kernels anew for another number of objects; a few fixed numbers are
    # reached with meshes of one empty triangle.
    corner = spec.parts[0][0].vertices[0]
    speck = Mesh(np.tile(corner, (3, 1)), _UP_33, _UP_33[:, :2], np.array([[0, 1, 2]], np.uint32))
    filler = (Material(np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.float32)), [speck])
    groups += [filler] * (-len(groups) % _MESH_STEP)
    for number, (look, meshes) in enumerate(groups):
        description[f"mesh_{number:03d}"] = _mitsuba_mesh(mi, merged(meshes), look)
    return LoadedScene(spec, mi.load_dict(description))


def cast_rays(mitsuba_scene: Any, camera: SceneCamera, size_hw: Size) -> tuple[Float32, Float32]:
    """Exact geometry through the pixel centres.

    Returns:
        Planar depth in metres, float32 `[H, W]`, and normals, float32 `[H, W, 3]`, x right, y up, z
        toward the viewer, facing the viewer; both 0 where a ray hits nothing.
    """
    rays_N3 = _planar_rays(camera, size_hw).reshape(-1, 3)
    length_N1 = np.linalg.norm(rays_N3, axis=-1, keepdims=True)
    directions_N3 = (rays_N3 / length_N1) @ camera.rotation_33.T
    distance_N, flat_N3, smooth_N3 = _intersect(mitsuba_scene, camera.position, directions_N3)
    hit_N = np.isfinite(distance_N)
    depth_N = np.where(hit_N, distance_N, 0.0) / length_N1[:, 0]
    flat_N3 = np.where(((flat_N3 * directions_N3).sum(-1) > 0)[:, None], -flat_N3, flat_N3)
    smooth_N3 = np.where(((smooth_N3 * flat_N3).sum(-1) < 0)[:, None], -smooth_N3, smooth_N3)
    # At a silhouette the interpolated normal may point away from the viewer; the triangle's cannot.
    away_N = (smooth_N3 * directions_N3).sum(-1) > -1e-3
    normals_N3 = np.where(away_N[:, None], flat_N3, smooth_N3) @ camera.rotation_33
    norm_N1 = np.linalg.norm(normals_N3, axis=-1, keepdims=True)
    normals_N3 = np.where(hit_N[:, None], normals_N3 / np.where(norm_N1 > 0, norm_N1, 1.0), 0.0)
    return (
        depth_N.reshape(size_hw).astype(np.float32),
        normals_N3.reshape(*size_hw, 3).astype(np.float32),
    )


def pick_camera(scene: LoadedScene) -> SceneCamera:
    """The first candidate camera with a view worth having, or the best of them."""
    best = max_score = None
    for camera in scene.spec.cameras:
        score = _view_score(*cast_rays(scene.mitsuba_scene, camera, _PREVIEW_HW))
        if max_score is None or score > max_score:
            best, max_score = camera, score
        if score > 0.3:
            break
    assert best is not None  # build_scene gives at least one camera
    return best


def render_view(
    scene: LoadedScene,
    camera: SceneCamera,
    size_hw: Size,
    *,
    samples: int = 16,
    exposure: float | None = None,
) -> View:
    """Renders ``scene`` from ``camera``.

    Args:
        scene: from `load_scene`.
        camera: one of the scene's, or any other: a path of cameras gives a video.
        size_hw: height and width in pixels.
        samples: light paths per pixel.
        exposure: gain of the linear picture; chosen from the picture when left out.
    """
    depth_m, normals = cast_rays(scene.mitsuba_scene, camera, size_hw)
    linear_HW3, albedo_HW3 = _trace(scene.mitsuba_scene, camera, size_hw, samples, scene.spec.seed)
    rays_HW3 = _planar_rays(camera, size_hw).astype(np.float32)
    linear_HW3 = denoise(linear_HW3, albedo_HW3, rays_HW3 * depth_m[..., None], normals)
    if exposure is None:
        exposure = auto_exposure(linear_HW3)
    rng = np.random.default_rng(scene.spec.seed)
    rgb = develop(linear_HW3, scene.spec.look, exposure, rng)
    return View(rgb, depth_m, normals, exposure)


def _mitsuba_mesh(mi: Any, mesh: Mesh, look: Material) -> Any:
    texture = {"type": "bitmap", "bitmap": mi.Bitmap(look.texture), "raw": True}
    surface = {
        "type": "principled",
        "base_color": texture,
        "roughness": look.roughness,
        "metallic": max(look.metallic, 1e-3),  # exactly 0 would be another kernel to compile
        "specular": look.specular,
    }
    properties = mi.Properties()
    properties["surface"] = mi.load_dict({"type": "twosided", "surface": surface})
    if any(look.radiance):
        radiance = {"type": "rgb", "value": list(look.radiance)}
        properties["light"] = mi.load_dict({"type": "area", "radiance": radiance})
    result = mi.Mesh(
        "mesh",
        vertex_count=len(mesh.vertices),
        face_count=len(mesh.faces),
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    values = mi.traverse(result)
    values["vertex_positions"] = mesh.vertices.ravel()
    values["vertex_normals"] = mesh.normals.ravel()
    values["vertex_texcoords"] = (mesh.uvs / np.float32(look.tile_m)).ravel()
    values["faces"] = mesh.faces.ravel()
    values.update()
    return result


def _planar_rays(camera: SceneCamera, size_hw: Size) -> npt.NDArray[np.float64]:
    """Rays through the pixel centres in camera axes, scaled to 1 m of planar depth: `[H, W, 3]`."""
    k = camera.intrinsics(size_hw)
    x = (np.arange(size_hw[1]) - k.cx) / k.fx
    y = (np.arange(size_hw[0]) - k.cy) / k.fy
    grid_x, grid_y = np.meshgrid(x, y)
    return np.stack([grid_x, -grid_y, -np.ones_like(grid_x)], -1)


def _intersect(
    scene: Any, origin: tuple[float, float, float], directions_N3: npt.NDArray[np.float64]
) -> tuple[Float32, Float32, Float32]:
    """Distance `[N]` (infinite: no hit), triangle normals and interpolated normals `[N, 3]`."""
    mi = require("mitsuba", "train")
    if mi.variant().startswith("scalar"):
        hits = [
            scene.ray_intersect(mi.Ray3f(list(origin), direction.tolist()))
            for direction in directions_N3
        ]
        flat = np.array([hit.n for hit in hits], np.float32)
        smooth = np.array([hit.sh_frame.n for hit in hits], np.float32)
        return np.array([hit.t for hit in hits], np.float32), flat, smooth
    columns = np.ascontiguousarray(directions_N3.T, np.float32)
    hit = scene.ray_intersect(mi.Ray3f(mi.Point3f(*origin), mi.Vector3f(columns)))
    return hit.t.numpy(), np.array(hit.n).T, np.array(hit.sh_frame.n).T


def _trace(
    scene: Any, camera: SceneCamera, size_hw: Size, samples: int, seed: int
) -> tuple[Float32, Float32]:
    """Linear light and the albedo of the surfaces, each float32 `[H, W, 3]`."""
    mi = require("mitsuba", "train")
    pose = np.eye(4)
    # Mitsuba's camera has x to the left and z forward.
    pose[:3, :3] = camera.rotation_33 * [-1.0, 1.0, -1.0]
    pose[:3, 3] = camera.position
    film = {
        "type": "hdrfilm",
        "width": size_hw[1],
        "height": size_hw[0],
        "pixel_format": "rgb",
        "rfilter": {"type": "box"},
    }
    sensor = mi.load_dict(
        {
            "type": "perspective",
            "fov": camera.fov_x_deg,
            "fov_axis": "x",
            "to_world": mi.ScalarTransform4f(pose),
            "film": film,
            "sampler": {"type": "independent"},
        }
    )
    light = mi.load_dict({"type": "path", "max_depth": _BOUNCES, "rr_depth": 3})
    colour = mi.load_dict({"type": "aov", "aovs": "albedo:albedo"})
    sampling = {"spp": samples, "seed": seed % 2**32}
    # The same seed puts the samples of both at the same places, so edges are blended alike.
    linear, albedo = (
        np.array(mi.render(scene, sensor=sensor, integrator=kind, **sampling), np.float32)
        for kind in (light, colour)
    )
    return linear[..., :3], albedo[..., -3:]


def _view_score(depth_m: Float32, normals: Float32) -> float:
    """How much there is to see: spread of log depth and of directions; 0 for blocked or empty views."""
    hit = depth_m > 0
    if hit.mean() < 0.4 or (depth_m[hit] < 0.35).mean() > 0.05:
        return 0.0
    spread = float(np.std(np.log(np.minimum(depth_m[hit], _FAR_M))))
    # One flat wall has mean normal of length 1; a room or a street about 0.7.
    turning = 1.0 - float(np.linalg.norm(normals[hit].mean(axis=0)))
    return float(hit.mean()) * spread * min(turning / 0.2, 1.0)
