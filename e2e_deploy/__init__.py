"""e2e-deploy: single-step diffusion depth and surface normals, from training to a real-time engine."""

__version__ = "0.1.0"
