"""Samples with their truth: the folder data set, and the micro-batches made of it."""
