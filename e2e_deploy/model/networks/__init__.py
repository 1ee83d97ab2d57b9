"""The networks a single-step model is put together of, and how their weights are read."""
