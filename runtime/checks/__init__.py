"""How near a backend is to its reference, and how fast."""
