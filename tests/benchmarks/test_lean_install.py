"""What tells the size and the start of an install, on the environment of the tests."""

import stat
import sys
from pathlib import Path

import pytest

from benchmarks.speed import lean_install
from e2e_deploy.assets import READY_BUNDLE

HERE = Path(sys.prefix)


@pytest.fixture
def here():
    if lean_install.python_of(HERE).is_file():
        return HERE
    pytest.skip("this Python is not in an environment of the form bin/python")


def test_sizes_are_those_of_the_files(here):
    found = lean_install.sizes(here)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert "e2e-deploy" in found
    assert "pip" not in found
    import click

    on_disk = sum(path.stat().st_size for path in Path(click.__file__).parent.glob("*.py"))
    assert on_disk < found["click"] < 20 * on_disk


def test_a_start_ends_with_a_depth(here):
    seconds, peak_mib = lean_install.python_start(here)
    assert seconds > 0
    assert peak_mib > (READY_BUNDLE / "model.onnx").stat().st_size / 2**20


def test_a_native_program_must_write_its_depth(tmp_path):
    """It is given the bundle, a picture and where to write; the library comes in the environment."""
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\n[ -f "$1/manifest.json" ] && cp "$2" "$3" && echo "$E2E_DEPLOY_ONNXRUNTIME" > {tmp_path}/said\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert lean_install.native_start(program, tmp_path / "lib.so", tmp_path) > 0
    assert (tmp_path / "said").read_text().strip() == str(tmp_path / "lib.so")
    program.write_text('#!/bin/sh\n: > "$3"\n')
    with pytest.raises(SystemExit, match="wrote no depth"):
        lean_install.native_start(program, tmp_path / "lib.so", tmp_path)


def test_versions_come_from_the_constraints():
    assert lean_install.constrained("numpy")[0].isdigit()


def test_what_was_read_is_forgotten_and_still_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"kept")
    (tmp_path / "gone").symlink_to("nowhere")
    lean_install.evict(tmp_path)
    assert (tmp_path / "folder" / "file").read_bytes() == b"kept"
