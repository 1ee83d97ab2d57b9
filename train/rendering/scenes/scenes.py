"""Random rooms, streets and lone things as plain data: ``build_scene(seed)`` gives a `SceneSpec`.

World axes are right-handed, y up, metres. The same seed gives the same scene on every machine and in
any order. Knows nothing of Mitsuba: `e2e_deploy.train.rendering.render` turns a spec and a camera into pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError
from e2e_deploy.train.rendering.develop import Look
from e2e_deploy.train.rendering.scenes.outdoor import outdoor
from e2e_deploy.train.rendering.scenes.props import Part
from e2e_deploy.train.rendering.scenes.room import room, studio
from e2e_deploy.train.rendering.scenes.stage import SceneCamera
from e2e_deploy.train.rendering.scenes.subject import subject

__all__ = ["Kind", "Look", "SceneCamera", "SceneSpec", "build_scene"]

F32 = npt.NDArray[np.float32]
Kind = Literal["indoor", "outdoor", "subject"]

SUBJECT_SHARE = 0.45
"""Share of the seeds whose scene is one thing in the middle of the picture."""
INDOOR_SHARE = 0.6
"""Share of indoor scenes among the others."""
SCENES = 2
"""Version of what the seeds give: another number, and a set that was begun is not gone on with.

1 had no subjects; whatever is not one is the same in both.
"""
_STUDIO_SHARE = 0.12


@dataclass(frozen=True)
class SceneSpec:
    """A scene as data.

    Attributes:
        seed: what it was built from.
        kind: "indoor", "outdoor" or "subject".
        parts: meshes in world coordinates with their materials.
        sky: latitude-longitude radiance around the scene, linear RGB float32 `[H, W, 3]`, y up.
        cameras: places to look from, none of them inside an object; the renderer picks a good one.
        look: the development of the picture.
    """

    seed: int
    kind: Kind
    parts: tuple[Part, ...]
    sky: F32
    cameras: tuple[SceneCamera, ...]
    look: Look


def build_scene(seed: int, kind: Kind | None = None) -> SceneSpec:
    """Builds the scene of ``seed``; ``kind`` is drawn from the seed when left out.

    Raises:
        UsageError: ``seed`` is negative.
    """
    if seed < 0:
        raise UsageError(f"a scene seed is an integer from 0 up, not {seed}")
    rng = np.random.default_rng(seed)
    drawn: Kind = "indoor" if rng.random() < INDOOR_SHARE else "outdoor"
    # Drawn apart, so that the rooms and streets of the seeds are what they were without subjects.
    if np.random.default_rng([seed, 1]).random() < SUBJECT_SHARE:
        drawn = "subject"
    kind = kind or drawn
    if kind == "subject":
        stage = subject(rng)
    elif kind == "outdoor":
        stage = outdoor(rng)
    elif rng.random() < _STUDIO_SHARE / INDOOR_SHARE:
        stage = studio(rng)
    else:
        stage = room(rng)
    look = Look(
        float(rng.normal(0, 0.4)),
        (float(rng.uniform(0.85, 1.15)), 1.0, float(rng.uniform(0.85, 1.15))),
        float(rng.uniform(0.9, 1.25)),
        float(rng.uniform(0.0, 0.02)),
    )
    return SceneSpec(seed, kind, tuple(stage.parts), stage.sky, stage.cameras(rng), look)
