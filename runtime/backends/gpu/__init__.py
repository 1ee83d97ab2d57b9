"""Frames through an NVIDIA GPU, whatever computes there: slots, streams, counted copies, DLPack."""
