"""Official data sets as folder data sets."""
