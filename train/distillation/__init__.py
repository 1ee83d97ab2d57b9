"""A small VAE that learns from a model's own large one."""
