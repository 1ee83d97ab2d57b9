"""How results of a bulk run lie in its output."""
