"""Frames and results for the tests of the sinks."""

import numpy as np

from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sources.source import SourceFrame


def source_frame(rng, hw=(60, 80), name="a", index=0):
    return SourceFrame(rng.integers(0, 256, (*hw, 3), dtype=np.uint8), index, None, name)


def result_for(task, rng, hw=(60, 80)):
    if task != "normals":
        return rng.random(hw, dtype=np.float32)
    vectors = rng.standard_normal((*hw, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def painter(manifest, is_video=False):
    return Painter(manifest, "spectral", is_video=is_video)
