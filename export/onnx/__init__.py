"""From module to file: traced, checked, quantised."""
