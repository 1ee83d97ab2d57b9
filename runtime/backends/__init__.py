"""What runs a graph of a bundle."""
