"""What one optimizer step computes."""
