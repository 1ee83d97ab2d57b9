"""Packages of AOTInductor: graphs that PyTorch compiled ahead of time, for one kind of device. Needs torch alone."""
