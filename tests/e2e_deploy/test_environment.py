"""Variables of the environment for the length of a block."""

import os
import subprocess
import sys

import pytest

from e2e_deploy.packages import environment


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("E2E_SET", "before")
    monkeypatch.delenv("E2E_NOT", raising=False)


def now():
    return os.environ["E2E_SET"], os.environ.get("E2E_NOT")


@pytest.mark.parametrize(("keep", "inside"), [(False, "ours"), (True, "before")])
def test_a_block_has_them_and_leaves_what_was_before(keep, inside):
    with environment({"E2E_SET": "ours", "E2E_NOT": "ours"}, keep=keep):
        assert now() == (inside, "ours")
        child = [sys.executable, "-c", "import os; print(os.environ['E2E_NOT'])"]
        assert subprocess.check_output(child, text=True) == "ours\n"
    assert now() == ("before", None)


def test_so_does_a_block_that_fails_or_changes_them():
    with pytest.raises(RuntimeError), environment({"E2E_SET": "ours", "E2E_NOT": "ours"}):
        del os.environ["E2E_NOT"]
        raise RuntimeError
    assert now() == ("before", None)
