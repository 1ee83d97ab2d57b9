"""Verbs for more than one machine or user."""
