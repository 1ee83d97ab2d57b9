"""What users write against the public API, judged by type checkers: the README's lines and the examples."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "runtime", "train")

# Written from the README alone.
PROGRAM = '''
"""Depth of a folder of pictures, and whether the bundle may be trusted."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e


def nearest(photo: Path) -> tuple[int, int]:
    """Row and column of what is nearest."""
    with e2e.load(e2e.READY_BUNDLE, backend="onnxruntime", device="cpu") as engine:
        depth = engine.predict(e2e.read_picture(photo))
    row, column = np.unravel_index(int(np.argmin(depth)), depth.shape)
    return int(row), int(column)


async def many(folder: Path) -> list[npt.NDArray[np.float32]]:
    """Depth of every picture, one after the other while others are read."""
    with e2e.load("my-bundle") as engine:
        waiting = [engine.predict_async(e2e.read_picture(path)) for path in folder.glob("*.jpg")]
        return [np.asarray(depth, dtype=np.float32) for depth in await asyncio.gather(*waiting)]


def deploy(checkpoint: str) -> list[str]:
    """What is outside its limit; nothing if all is well."""
    try:
        bundle = e2e.export_bundle(checkpoint, "my-bundle", precision="fp16", frame_sizes=[(480, 640)])
        return e2e.verify_bundle(bundle).failures
    except (e2e.CheckpointError, e2e.UnavailableError, e2e.ParityError) as error:
        return [str(error)]


def both(photo: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Depth and normals of one call."""
    with e2e.load("geometry-bundle") as engine:
        results: Any = engine.predict(e2e.read_picture(photo))
    return {name: results[name] for name in engine.outputs}


def record(source: str) -> list[Path]:
    """A video of a camera's depth."""
    report = e2e.run(source, "my-bundle", out="depth.mp4", side_by_side=True, limit=100)
    return report.files
'''


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with the package as it is installed, the README's lines, the program above and the examples."""
    folder = tmp_path_factory.mktemp("user")
    package = folder / "e2e_deploy"
    package.mkdir()
    for path in [*(ROOT / "e2e_deploy").iterdir(), *(ROOT / room for room in ROOMS)]:
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (folder / "readme.py").write_text(lines)
    (folder / "program.py").write_text(PROGRAM)
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, folder / f"example_{example.name}")
    return folder


def judged(folder, *command):
    names = sorted(path.name for path in folder.glob("*.py"))
    return subprocess.run(
        [*command, *names], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_mypy_strict_finds_nothing(programs, tmp_path):
    """The heavy packages count as not installed, as on a plain install."""
    config = programs / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\n"
        "[mypy-e2e_deploy.*]\nignore_errors = True\n"  # our own are make lint's
        "[mypy-torch.*,onnx.*,onnx_ir.*,transformers.*,diffusers.*,av.*,PIL.*,tritonclient.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    done = judged(programs, sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_strict_finds_nothing(programs):
    """pip install pyright; its first run downloads itself, so it is none of our dev tools."""
    if (pyright := shutil.which("pyright")) is None:
        pytest.skip("pyright is not installed: pip install pyright")
    names = sorted(path.name for path in programs.glob("*.py") if "example" not in path.name)
    quoted = ", ".join(f'"{name}"' for name in names)
    config = programs / "pyrightconfig.json"
    config.write_text(f'{{"typeCheckingMode": "strict", "include": [{quoted}]}}')
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
