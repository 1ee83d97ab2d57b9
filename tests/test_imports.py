"""Who may import whom, and what must work without the heavy packages."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"e2e_deploy": "e2e_deploy", "train": "e2e_deploy.train"}
FOLDERS |= {"export": "e2e_deploy.export", "runtime": "e2e_deploy.runtime"}
ROOMS = ("e2e_deploy.train", "e2e_deploy.export", "e2e_deploy.runtime")
ROOMS += ("e2e_deploy.verbs", "e2e_deploy.cli")
# room: the rooms it may import besides itself and what all share
MAY_IMPORT = {
    "e2e_deploy": (),
    "e2e_deploy.train": (),
    "e2e_deploy.runtime": (),
    "e2e_deploy.export": ("e2e_deploy.runtime",),
    "e2e_deploy.verbs": ("e2e_deploy.train", "e2e_deploy.export", "e2e_deploy.runtime"),
    "e2e_deploy.cli": ROOMS,
}
HEAVY = (
    "torch",
    "openvino",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "safetensors",
)
HEAVY += (
    "huggingface_hub",
    "accelerate",
    "tensorrt",
    "tensorrt_rtx",
    "pillow_heif",
    "scipy",
    "skimage",
)


def modules():
    """Every module of the four folders: its name and its file."""
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(p for p in parts if p != "__init__")])
            yield pytest.param(name, file, id=name)


MODULES = list(modules())


def imported(file):
    """Every module a file imports, anywhere in it, also through require() and import_module()."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{file.name}: relative imports do not survive the mapped folders"
            )
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            argument = node.args[0]
            if called in ("require", "import_module", "__import__") and isinstance(
                argument, ast.Constant
            ):
                yield argument.value


def room_of(name):
    if name == "e2e_deploy.__main__":  # the command line's other door
        return "e2e_deploy.cli"
    return next((r for r in ROOMS if name == r or name.startswith(r + ".")), "e2e_deploy")


@pytest.mark.parametrize(("name", "file"), MODULES)
def test_rooms_import_only_what_they_may(name, file):
    if name == "e2e_deploy":  # the public API hands names of every room on
        return
    room = room_of(name)
    allowed = {room, "e2e_deploy", *MAY_IMPORT[room]}
    for other in imported(file):
        if other.split(".")[0] == "e2e_deploy":
            assert room_of(other) in allowed, f"{name} imports {other}"
        assert other.split(".")[0] not in ("train", "export", "runtime"), (
            f"{name}: write e2e_deploy.{other}"
        )


@pytest.mark.parametrize(("name", "file"), MODULES)
def test_tensorrt_is_imported_in_one_place(name, file):
    tops = {other.split(".")[0] for other in imported(file)}
    if name != "e2e_deploy.nvidia.trt_api":
        assert not tops & {"tensorrt", "tensorrt_rtx"}


@pytest.mark.parametrize(("name", "file"), MODULES)
def test_onnx_runtime_is_imported_in_one_place(name, file):
    """Where its telemetry is off; its own parts, and what imports it, come after."""
    found = set(imported(file))
    if name != "e2e_deploy.packages":
        assert "onnxruntime" not in found
    if any(other.startswith(("onnxruntime.", "polygraphy")) for other in found):
        assert "e2e_deploy.packages.import_onnxruntime" in found


@pytest.mark.parametrize(("name", "file"), MODULES)
def test_openvino_is_imported_in_one_place(name, file):
    """Where its telemetry is left out, and where the one Core of a process is made."""
    if name != "e2e_deploy.packages":
        assert ".Core(" not in file.read_text(encoding="utf-8")
        assert not [other for other in imported(file) if other.split(".")[0] == "openvino"]


def test_the_static_test_sees_imports(tmp_path):
    """It must see what it judges."""
    file = tmp_path / "m.py"
    file.write_text(
        "import e2e_deploy.cli\ndef f():\n    from e2e_deploy import train\n    require('tensorrt', 'x')\n"
    )
    found = set(imported(file))
    assert {"e2e_deploy.cli", "e2e_deploy.train", "tensorrt"} <= found
    assert room_of("e2e_deploy.cli") == "e2e_deploy.cli"
    assert room_of("e2e_deploy.client") == "e2e_deploy"


def python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCKED = f"import sys\nfor name in {HEAVY!r}:\n    sys.modules[name] = None\n"


def test_the_runtime_imports_without_the_heavy_packages():
    names = sorted(p.values[0] for p in MODULES if room_of(p.values[0]) == "e2e_deploy.runtime")
    assert "e2e_deploy.runtime.backends.torch" in names
    code = (
        BLOCKED + "import importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    )
    python(code, *names)


def test_importing_the_runtime_loads_none_of_them_where_they_are_installed():
    code = f"import sys, e2e_deploy.runtime.run\nprint(*set({HEAVY!r}) & set(sys.modules))"
    assert python(code).split() == []


def test_the_first_depth_loads_no_more_than_it_needs():
    """A robot that starts waits for this: neither codecs nor readers of pictures, for a frame of the engine's size."""
    code = (
        "import sys, numpy as np, e2e_deploy as e2e\n"
        "with e2e.load(e2e.READY_BUNDLE, backend='onnxruntime', device='cpu') as engine:\n"
        "    engine(np.zeros((*engine.frame_size, 3), np.uint8))\n"
        "print(*{'cv2', 'av', 'PIL', 'click', 'asyncio', 'importlib.metadata'} & set(sys.modules))"
    )
    assert python(code).split() == []


def test_importing_the_package_imports_no_other():
    """Nor does it take time: the interpreter alone is measured beside it."""
    code = "import sys\nbefore = set(sys.modules)\nimport e2e_deploy\nprint(*set(sys.modules) - before)"
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert loaded <= {"e2e_deploy", *sys.stdlib_module_names}
    code = "import time\nstart = time.perf_counter()\nimport e2e_deploy\nprint(time.perf_counter() - start)"
    assert min(float(python(code)) for _ in range(5)) < 0.05


def test_every_public_name_is_there_and_described():
    import e2e_deploy

    for name in e2e_deploy.__all__:
        value = getattr(e2e_deploy, name)
        assert name.startswith("__") or value.__doc__, name
        assert name in dir(e2e_deploy)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        e2e_deploy.paint  # noqa: B018


def test_checkers_see_the_same_names():
    """What type checkers read under TYPE_CHECKING is what __getattr__ finds."""
    import e2e_deploy

    tree = ast.parse((ROOT / "e2e_deploy" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    found = {name: f"e2e_deploy.{where}" for name, where in e2e_deploy._WHERE.items()}
    assert seen == found


def test_benchmarks_do_not_import_the_command_line():
    for file in sorted((ROOT / "benchmarks").rglob("*.py")):
        assert not [o for o in imported(file) if room_of(o) == "e2e_deploy.cli"], file.name


def test_help_works_without_the_heavy_packages():
    code = BLOCKED + "from e2e_deploy.cli import main\nmain(['--help'])\n"
    assert "Turn a checkpoint into a verified bundle" in python(code)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom e2e_deploy.cli import group\n"
        "group.main(['--help'], standalone_mode=False)\n"
        "print('loaded:', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.partition("loaded:")[2].split())
    assert "click" in loaded
    assert not loaded & {*HEAVY, "numpy", "cv2", "av", "onnxruntime", "rich"}


def test_help_takes_under_a_second():
    """The best of three, because a machine at work may delay any one of them."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        python("from e2e_deploy.cli import main\nmain(['--help'])")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0
