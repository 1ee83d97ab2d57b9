"""Bulk inference: many pictures through bundles, on Ray Data, each exactly once."""
