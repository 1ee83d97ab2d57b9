"""The package as it is installed: what pyproject.toml lists against what is on disk."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import e2e_deploy
from e2e_deploy.cli import VERBS
from e2e_deploy.pictures import NAMES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_on_disk_is_listed_and_no_other():
    found = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(found) == sorted(SETUPTOOLS["packages"])


def test_every_folder_with_code_is_a_package():
    for folder in set(SETUPTOOLS["package-dir"].values()):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_files_that_are_no_code_are_installed_too():
    listed = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        top = ROOT.joinpath(*package.split("."))
        listed |= {path for pattern in patterns for path in top.glob(pattern)}
    for name in ("py.typed", *(f"assets/{name}" for name in NAMES)):
        assert ROOT / "e2e_deploy" / name in listed
        assert (files("e2e_deploy") / name).is_file()


def test_one_version():
    assert PROJECT["project"]["version"] == e2e_deploy.__version__


def test_the_plain_install_is_the_lean_runtime():
    names = {d.split(">")[0].split(";")[0].strip() for d in PROJECT["project"]["dependencies"]}
    assert names == {
        "numpy",
        "opencv-python",
        "av",
        "click",
        "rich",
        "onnxruntime",
        "onnxruntime-gpu",
    }


@pytest.mark.parametrize(
    "extra",
    ["export", "train", "tensorrt", "tensorrt-rtx", "video-gpu", "robotics", "all", "dev"],
)
def test_the_extras_that_messages_name(extra):
    assert PROJECT["project"]["optional-dependencies"][extra]


@pytest.mark.parametrize(
    "verb", [v for v, (m, _) in VERBS.items() if (ROOT / f"e2e_deploy/cli/{m}.py").exists()]
)
def test_every_verb_has_help(verb, cli):
    code, stdout, stderr = cli(verb, "--help")
    assert (code, stderr) == (0, "")
    usage, _, text = stdout.partition("\n\n")
    assert usage.startswith(f"Usage: e2e-deploy {verb} ")
    assert len(text.split()) > 10
    assert "--help" in text


def test_every_verb_of_the_list_exists():
    for verb, (module, text) in VERBS.items():
        assert (ROOT / f"e2e_deploy/cli/{module}.py").exists(), verb
        assert text.endswith(".")


def test_no_arguments_and_unknown_verbs_are_wrong_usage(cli):
    assert cli()[0] == 2
    code, stdout, stderr = cli("paint")
    assert (code, stdout) == (2, "")
    assert "No such command 'paint'" in stderr
    code, stdout, _ = cli("--version")
    assert (code, stdout.strip()) == (0, f"e2e-deploy, version {e2e_deploy.__version__}")
