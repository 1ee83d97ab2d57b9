"""Pictures and weights that come with the package."""
