"""Run a bundle: backends, sources, sinks, timing.

from e2e_deploy.runtime import load

with load("my-bundle") as engine:
    depth = engine(frame)  # uint8 RGB [H, W, 3] in, float32 [H, W] out
"""

from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.sources.picture_file import read_picture

__all__ = ["Engine", "load", "read_picture"]
