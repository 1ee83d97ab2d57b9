"""Procedural scenes as pictures with exact depth and normals."""
