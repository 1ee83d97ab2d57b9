"""A small bundle to damage, and what is said of it then."""

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError
from tests.plain_bundle import write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def refused():
    """refused(root, match): opening it is a BundleError in one line."""

    def check(root, match):
        with pytest.raises(BundleError, match=match) as caught:
            open_bundle(root)
        assert "\n" not in str(caught.value)

    return check
