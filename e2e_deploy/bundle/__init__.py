"""The folder between export and runtime: its manifest, its files, and what must be true of them."""
