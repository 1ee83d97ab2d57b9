"""A run from its first step to its model folder: what it keeps, says and survives."""
