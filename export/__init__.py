"""From a checkpoint to a bundle: the traced graph, its files, its verification."""
