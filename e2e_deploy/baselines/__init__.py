"""diffusers' own pipelines on the checkpoints that we run: what our models are measured and timed against."""
