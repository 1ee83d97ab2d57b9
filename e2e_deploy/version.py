"""The version of this package, for manifests and for ``e2e-deploy --version``."""

__version__ = "0.1.0"
