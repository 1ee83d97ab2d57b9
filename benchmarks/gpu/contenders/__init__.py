"""What is compared on a GPU."""
