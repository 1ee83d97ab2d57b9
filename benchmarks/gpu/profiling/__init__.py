"""Where the milliseconds go, by kernel and by node: ``python -m benchmarks.gpu.profiling``."""
