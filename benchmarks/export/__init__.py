"""What exporting takes, and what it makes smaller."""
