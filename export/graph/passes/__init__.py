"""Exact changes of a specialised model, one kind of place a file; ``specialise.py`` knows their order."""
