"""How long it takes, and in how much memory."""
