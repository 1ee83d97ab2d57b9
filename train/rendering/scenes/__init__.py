"""Random scenes as plain data."""
