import json
import os
from pathlib import Path

import pytest

from e2e_deploy.errors import BundleError, CheckpointError, InputError
from e2e_deploy.system.json_files import MAX_DEPTH, parse_json, read_json, to_json


def test_an_object_is_read_as_it_is(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, None, True, "ü"], "b": {"c": 2**63 - 1, "d": -(2**63) + 1}}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a": ' * 100_000, "nested too deep"),
        ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", f"more than {MAX_DEPTH} deep"),
        ('{"a": ' + "9" * 4000 + "}", "a number of 4000 digits"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": 9223372036854775808}', "beyond 64 bits"),
        ('{"a": 1e999}', "1e999 is beyond 64 bits"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": [-Infinity]}', "-Infinity is no JSON number"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
        ("[1]", "holds a list; expected a JSON object"),
        ("", "cannot be read as JSON"),
        ('{"a": 1} x', "cannot be read as JSON"),
    ],
)
def test_what_is_beyond_the_bounds_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text.encode(), "x.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("x.json ")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_depth_at_the_limit_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse_json(b'{"a": ' + b"[" * depth + b"]" * depth + b"}", "x.json")


def test_bytes_that_are_no_utf8() -> None:
    with pytest.raises(BundleError, match="cannot be read as JSON"):
        parse_json(b'{"a": "\xff"}', "manifest.json", error=BundleError)


def test_a_missing_file_raises_the_error_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unet.json is missing"):
        read_json(tmp_path / "unet.json", error=CheckpointError)


def test_a_pipe_and_a_device_neither_hang_nor_fill_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(InputError, match=f"{name}.json"):
            read_json(tmp_path / f"{name}.json")


def test_a_file_above_its_limit_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": "x" * 100}))
    with pytest.raises(InputError, match="holds 109 bytes, and at most 100 are read"):
        read_json(tmp_path / "x.json", limit=100)


def test_what_we_write_every_reader_takes() -> None:
    told = {"a": float("nan"), "b": [1.5, float("inf"), ("x", -float("inf"))], "c": {"d": None}}
    text = to_json(told)
    assert parse_json(text.encode(), "a") == {
        "a": None,
        "b": [1.5, None, ["x", None]],
        "c": {"d": None},
    }
    assert to_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'
