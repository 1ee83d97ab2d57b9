"""Data files of the package: pictures, small checkpoints, and a bundle that is ready to run."""

from pathlib import Path

READY_BUNDLE = Path(__file__).parent / "bundle-depth"
"""e2e-tiny depth for frames of 480x640 (benchmarks/accuracy/ready_bundle.py makes it)."""
