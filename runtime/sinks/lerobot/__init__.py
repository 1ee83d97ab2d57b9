"""Depth as a key of a LeRobot data set."""
