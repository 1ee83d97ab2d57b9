"""Cameras: where pixels look, and what a camera says of itself."""
