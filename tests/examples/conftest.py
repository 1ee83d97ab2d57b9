"""What the tests of examples share: a bundle whose result is known, and a way to run them as users do."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.plain_bundle import write_plain_bundle

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def run(monkeypatch, capfd):
    """run(name, *arguments): what the program prints on stdout."""

    def program(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    return program
