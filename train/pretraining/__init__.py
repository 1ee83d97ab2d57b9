"""What a small model from random weights learns before it is trained end to end."""
