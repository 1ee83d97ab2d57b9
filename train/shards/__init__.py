"""Data sets in tars."""
