"""What training makes small: losses of decoded results, and of noisy latents."""
