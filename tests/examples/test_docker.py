"""examples/docker: no image is built here, but what the files name is there, and their commands are read."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "docker"
FILES = sorted(FOLDER.glob("Dockerfile*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def file(request):
    return request.param


def instructions(file):
    """Each instruction and what follows it, on one line."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def copied(file):
    """What is copied from the checkout, and where to."""
    for word, rest in instructions(file):
        if word == "COPY" and not rest.startswith("--from="):
            *sources, target = rest.split()
            yield from ((source, target) for source in sources)


def test_there_are_two_and_both_say_that_they_were_not_run():
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.jetson"]
    for path in FILES:
        assert "not run" in path.read_text()[:400]
        assert f"-f examples/docker/{path.name} " in path.read_text()


def test_what_is_copied_is_there_and_sent_to_the_builder(file):
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for source, target in copied(file):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in sent
        assert target in ("./", source)


def test_the_package_is_copied_whole(file):
    sources = {source for source, _ in copied(file)}
    project = PROJECT["project"]
    assert {*PROJECT["tool"]["setuptools"]["package-dir"].values()} <= sources
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= sources


def test_extras_and_settings_are_there(file):
    text = file.read_text()
    extras = PROJECT["project"]["optional-dependencies"]
    given = re.findall(r"EXTRAS=([\w,]+)", text)
    assert given
    assert set(",".join(given).split(",")) <= extras.keys()
    known = (ROOT / "native" / "CMakeLists.txt").read_text()
    for setting in re.findall(r"-D(\w+)=", text):
        assert setting.startswith("CMAKE_") or setting in known, setting


def test_its_stages_and_shell_are_well_formed(file):
    stages, words = set(), []
    for word, rest in instructions(file):
        words.append(word)
        if word == "FROM":
            stages |= set(re.findall(r" AS (\w+)$", rest))
        elif word == "RUN":
            subprocess.run(["/bin/sh", "-n", "-c", rest], check=True)
        elif word in ("ENTRYPOINT", "CMD"):
            assert re.fullmatch(r'\["[\w-]+"\]', rest)
        elif word == "ENV":
            assert all("=" in pair for pair in shlex.split(rest))
        elif word == "COPY":
            assert set(re.findall(r"--from=(\w+)", rest)) <= stages
        else:
            assert word in ("ARG", "WORKDIR", "USER")
    assert words[0] == "ARG"  # the base image can be another
    assert words.index("USER") < words.index("ENTRYPOINT")
