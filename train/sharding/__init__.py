"""A run whose weights are spread over its processes: how they are cut up, and the files of their slices."""
