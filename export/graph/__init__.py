"""From module to module: exact specialisation, and half precision by design."""
