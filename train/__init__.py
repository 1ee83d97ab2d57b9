"""End-to-end fine-tuning: losses, data sets, the training loop, evaluation."""
