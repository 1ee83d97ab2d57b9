"""The package as it is installed: what pyproject.toml lists against what is on disk."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import cv2
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import e2e_deploy
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.assets.pictures import NAMES
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.cli import VERBS
from e2e_deploy.model.checkpoint import BUNDLED_NAMES
from e2e_deploy.nvidia.trt_api import LIBRARIES

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
    bundle = open_bundle(READY_BUNDLE)
    ready = (
        f"assets/{READY_BUNDLE.name}/{name}" for name in ("manifest.json", *bundle.manifest.files)
    )
    top = ROOT / "e2e_deploy"
    checkpoints = [
        str(file.relative_to(top))
        for name in BUNDLED_NAMES
        for file in (top / "assets" / f"e2e-tiny-{name}").rglob("*")
        if file.is_file()
    ]
    assert len(checkpoints) > 10 * len(BUNDLED_NAMES)
    for name in ("py.typed", *(f"assets/{name}" for name in NAMES), *ready, *checkpoints):
        assert ROOT / "e2e_deploy" / name in listed
        assert (files("e2e_deploy") / name).is_file()


def test_one_version():
    assert PROJECT["project"]["version"] == e2e_deploy.__version__


def test_the_plain_install_is_the_lean_runtime():
    names = {d.split(">")[0].split(";")[0].strip() for d in PROJECT["project"]["dependencies"]}
    assert names == {
        "numpy",
        "opencv-python",
        "pillow",
        "av",
        "click",
        "onnxruntime",
        "onnxruntime-gpu",
    }


EXTRAS = PROJECT["project"]["optional-dependencies"]
FOR_PEOPLE = {"all", "dev"}
"""Extras that hold others, and tools that no module of ours imports."""


def code():
    """Every module of the package, parsed."""
    for folder in set(SETUPTOOLS["package-dir"].values()):
        for file in (ROOT / folder).rglob("*.py"):
            yield ast.parse(file.read_text(encoding="utf-8"))


def required_by_name(tree):
    """(module, extra) of each ``require("module", "extra")`` in a module; None for one that a variable holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            yield tuple(a.value if isinstance(a, ast.Constant) else None for a in node.args)


def imported(tree):
    """Names of the packages that a module imports, by ``require`` and ``import_openvino`` too."""
    names = [module for module, _ in required_by_name(tree) if module]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_openvino":
            names += [a.value for a in node.args if isinstance(a, ast.Constant)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {part for name in names for part in (name.partition(".")[0], name.rpartition(".")[2])}


def test_every_extra_is_imported_by_something():
    found = set().union(*map(imported, code()), LIBRARIES.values())
    for extra in EXTRAS.keys() - FOR_PEOPLE:
        names = [Requirement(text).name.replace("-", "_") for text in EXTRAS[extra]]
        assert {name.removesuffix("_python") for name in names} & found, extra


def test_every_extra_that_messages_name_is_there():
    named = {extra for tree in code() for _, extra in required_by_name(tree) if extra}
    assert named | LIBRARIES.keys() | {"export", "train"} <= EXTRAS.keys() - FOR_PEOPLE


def test_all_holds_what_one_machine_can_have():
    (everything,) = map(Requirement, EXTRAS["all"])
    # TensorRT needs a GPU and its own CUDA; TensorRT-RTX stands for both.
    assert everything.extras == EXTRAS.keys() - FOR_PEOPLE - {"tensorrt"}


@pytest.mark.parametrize(
    "verb",
    [
        v
        for v, (m, _) in VERBS.items()
        if (ROOT / f"e2e_deploy/cli/verbs/{m.replace('.', '/')}.py").exists()
    ],
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
        assert (ROOT / f"e2e_deploy/cli/verbs/{module.replace('.', '/')}.py").exists(), verb
        assert text.endswith(".")


def test_no_arguments_and_unknown_verbs_are_wrong_usage(cli):
    assert cli()[0] == 2
    code, stdout, stderr = cli("paint")
    assert (code, stdout) == (2, "")
    assert "No such command 'paint'" in stderr
    code, stdout, _ = cli("--version")
    assert (code, stdout.strip()) == (0, f"e2e-deploy, version {e2e_deploy.__version__}")


def required(requirements):
    """The distributions that ``requirements`` ask for on this machine, with all that those ask for."""
    found, names = {}, [Requirement(text) for text in requirements]
    while names:
        name = names.pop()
        if name.name not in found and (name.marker is None or name.marker.evaluate({"extra": ""})):
            found[name.name] = distribution(name.name)
            names += [Requirement(text) for text in found[name.name].requires or ()]
    return found.values()


@pytest.fixture(scope="module")
def plain_install(tmp_path_factory):
    """The programs of a new environment that holds a wheel of this package and what it requires, nothing else.

    Built and filled without a network: what it requires is linked from the environment that runs the tests.
    """
    if Version(distribution("setuptools").version) < Version("77"):
        pytest.skip("building a wheel needs setuptools 77 or later")
    top = tmp_path_factory.mktemp("install")
    for folder in set(SETUPTOOLS["package-dir"].values()):
        shutil.copytree(
            ROOT / folder, top / "source" / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, top / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    wheel = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", top, top / "source"]
    subprocess.run(wheel, check=True)
    venv.create(top / "venv", with_pip=False, symlinks=True)
    programs = top / "venv" / "bin"
    install = [*pip, "--python", programs / "python", "install", *offline, *top.glob("*.whl")]
    subprocess.run(install, check=True)
    (packages,) = (top / "venv").glob("lib/python*/site-packages")
    for needed in required(PROJECT["project"]["dependencies"]):
        for name in {file.parts[0] for file in needed.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(needed.locate_file(name))
    return programs


@pytest.mark.slow
class TestPlainInstall:
    """What ``pip install e2e-deploy`` gives: a runtime without torch."""

    @pytest.fixture
    def ran(self, plain_install, photo, tmp_path):
        """ran(program, *arguments) beside photo.jpg."""
        cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))

        def run(program, *arguments):
            return subprocess.run(
                [plain_install / program, *arguments],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )

        return run

    @pytest.mark.parametrize("name", ["torch", "diffusers", "transformers", "onnx", "mitsuba"])
    def test_it_has_none_of_the_heavy_packages(self, ran, name):
        assert "ModuleNotFoundError" in ran("python", "-c", f"import {name}").stderr

    def test_the_readmes_five_lines(self, ran, photo):
        (lines,) = re.findall(
            r"## Five lines of Python\n+```python\n(.*?)```",
            (ROOT / "README.md").read_text(),
            re.DOTALL,
        )
        done = ran("python", "-I", "-c", lines)
        assert (done.returncode, done.stderr) == (0, "")
        height, width, low, high = map(float, re.findall(r"[\d.]+", done.stdout))
        assert (height, width) == photo.shape[:2]
        assert 0 <= low < high <= 1

    def test_the_command_line(self, ran, tmp_path):
        assert ran("e2e-deploy", "--version").stdout.strip().endswith(e2e_deploy.__version__)
        assert ran("e2e-deploy", "doctor").returncode == 0
        done = ran("e2e-deploy", "run", "photo.jpg")
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("bundle: the packaged e2e-tiny depth")
        assert list((tmp_path / "depth-out").glob("photo*.png"))

    def test_the_demo(self, ran, tmp_path):
        """Of two frames; and the bundle that it leaves is one to play with."""
        short = "from e2e_deploy.verbs import demo; demo.CLIP_FRAMES = 2; from e2e_deploy.cli import main; main()"
        done = ran("python", "-I", "-c", short, "demo")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "demo" / "sheet.png").is_file()
        assert ran("e2e-deploy", "verify", "demo/depth").returncode == 0

    def test_what_needs_an_extra_names_it(self, ran):
        for arguments, extra in (
            (("export",), "export"),
            (("data", "render", "set", "--train", "1"), "train"),
        ):
            done = ran("e2e-deploy", *arguments)
            assert (done.returncode, done.stdout) == (4, "")
            assert f"pip install 'e2e-deploy[{extra}]'" in done.stderr
            assert done.stderr.splitlines()[-1].startswith("error: ")
