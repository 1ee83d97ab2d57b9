"""Verbs that join several rooms, such as `evaluate` (training and runtime) and `demo` (export and runtime)."""
