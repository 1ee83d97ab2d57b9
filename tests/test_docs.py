"""The pages: their links lead somewhere, the commands in them exist, and every public name is documented."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import e2e_deploy
from e2e_deploy.cli import VERBS, group

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(rf"e2e-deploy ((?:{'|'.join(VERBS)})\b[^`|#\n]*)")


def anchors(page):
    """What a link may name behind its #, as GitHub makes it of headings."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def options_of(words):
    """The options of the verb that a command begins with."""
    command = group.get_command(click.Context(group), words[0])
    if isinstance(command, click.Group):
        command = command.commands.get(words[1], command)
    return {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page):
    for command in COMMAND.findall(page.read_text(encoding="utf-8")):
        words = command.split()
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert option in options_of(words), f"e2e-deploy {command}"


@pytest.mark.parametrize("name", sorted(set(e2e_deploy.__all__) - {"__version__", "READY_BUNDLE"}))
def test_every_public_name_is_documented(name):
    value = getattr(e2e_deploy, name)
    text = inspect.getdoc(value) or ""
    assert text.endswith((".", "`", ")")) or "\n" in text
    if inspect.isfunction(value):
        given = set(inspect.signature(value).parameters)
        told = set(re.findall(r"^    (\w+): ", text, re.MULTILINE))
        assert given <= told or len(given) == 1, given - told


def test_the_api_page_builds_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install 'e2e-deploy[dev]'")
    make = re.search(r"^\t\$\(BIN\)/python (-W.*pdoc.*)$", (ROOT / "Makefile").read_text(), re.M)
    arguments = [word.strip("'") for word in make[1].split()]
    arguments[arguments.index("build/docs")] = str(tmp_path)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "e2e_deploy.html").read_text(encoding="utf-8")
    for name in e2e_deploy.__all__:
        assert f'id="{name}"' in page, name
