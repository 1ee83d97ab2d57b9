"""How bulk runs grow: a model of the parts that bound them, what it is fed with, and runs that it is held against."""
