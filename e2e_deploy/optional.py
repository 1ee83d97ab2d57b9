"""Packages that belong to an extra: imported where they are used, named in one sentence when missing."""

import importlib
from types import ModuleType

from e2e_deploy.errors import UnavailableError


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` installs.

    Raises:
        UnavailableError: the module is not installed, or does not load; the message names the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = (
            "is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"does not load ({error})"
        )
        raise UnavailableError(
            f"the package {module.partition('.')[0]!r} {reason}: pip install 'e2e-deploy[{extra}]'"
        ) from error
