"""Results as a live picture for everything that takes a camera."""
