"""A training run as settings: what they are, what contradicts, their TOML file."""
