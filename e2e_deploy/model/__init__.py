"""From a checkpoint to the torch module: which family it is, whether it is whole, what it computes."""
