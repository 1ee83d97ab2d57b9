"""stdout and stderr that are closed, full or left, as a shell makes them."""

import subprocess
import sys

import pytest

from tests.plain_bundle import write_plain_bundle

OURS = f"{sys.executable} -m e2e_deploy"


def shell(command, folder):
    """Exit code of the first program of a pipe, stdout and stderr."""
    line = f"{command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect bundle | head -0", 1),
        ("--help | head -0", 1),
        ("inspect none 2>&1 | head -0", 5),
        ("inspect bundle >/dev/full", 1),
        ("inspect bundle <&- >&- 2>&-", 0),
        ("inspect none >&- 2>&-", 5),
    ],
)
def test_no_traceback_and_the_exit_code_of_the_work(tmp_path, command, code):
    write_plain_bundle(tmp_path / "bundle")
    got, stdout, stderr = shell(f"{OURS} {command}", tmp_path)
    assert (got, stdout) == (code, b"")
    assert b"Traceback" not in stderr
    assert b"Exception ignored" not in stderr
    if "full" in command:
        assert stderr == b"error: No space left on device\n"


def test_what_is_printed_on_a_closed_stderr_is_in_no_file(tmp_path):
    program = (
        "import os; from e2e_deploy.cli.streams import open_streams; open_streams()\n"
        "file = open('result', 'w'); file.write('mine'); file.flush(); os.write(2, b'a library says'); print('x')"
    )
    (tmp_path / "program.py").write_text(program)
    assert shell(f"{sys.executable} program.py >&- 2>&-", tmp_path) == (0, b"", b"")
    assert (tmp_path / "result").read_text() == "mine"


def test_a_name_in_no_utf_8_is_printed_byte_for_byte(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, click; from e2e_deploy.cli.streams import open_streams; open_streams()\n"
        "click.echo(os.fsdecode(b'f\\xfcr'))"
    )
    command = f"LC_ALL=C.UTF-8 {sys.executable} program.py"
    assert shell(command, tmp_path) == (0, b"f\xfcr\n", b"")
