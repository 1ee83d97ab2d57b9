"""Records from tables: exact types, every mistake at once, nothing without an end."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from e2e_deploy.system.records import Form, Items, Limits, check_value, read_record


@dataclass(frozen=True, kw_only=True)
class Inner:
    side: Annotated[int, Limits(1, 8)]


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: Literal["a", "b"]
    size: Annotated[list[int], Items(2, "height and width")]
    digest: Annotated[str, Form("[0-9a-f]{4}", "4 digits")]
    inner: list[Inner] = field(default_factory=list)
    free: Any = None
    maybe: int | None = None


GOOD = {"kind": "a", "size": [2, 3], "digest": "00ff"}


def test_a_record_with_its_defaults_and_one_that_must_be_complete():
    assert read_record(Outer, GOOD) == (Outer(kind="a", size=[2, 3], digest="00ff"), [])
    record, problems = read_record(Outer, GOOD, complete=True)
    assert record is None
    assert problems == ["inner is missing", "free is missing", "maybe is missing"]


def test_every_mistake_is_said_with_its_place():
    table = {"kind": "c", "size": [1], "digest": "zz", "inner": [{"side": 9}, {"side": True}]}
    record, problems = read_record(Outer, table | {"maybe": 1.0, "more": 1})
    assert record is None
    assert problems == [
        "unknown key more (known: kind, size, digest, inner, free, maybe)",
        "kind is 'c'; expected 'a' or 'b'",
        "size has 1 entries; expected 2: height and width",
        "digest is 'zz'; expected 4 digits",
        "inner[0].side is 9; expected at least 1 and at most 8",
        "inner[1].side is True; expected a value of type int",
        "maybe is 1.0; expected a value of type int",
    ]


def test_texts_are_a_problem_or_are_cleaned():
    dirty = GOOD | {"free": {"\x1b": ["\x1b[2J"]}}
    record, _ = read_record(Outer, dirty, clean_texts=True)
    assert record.free == {"\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}[2J"]}
    assert "control characters" in read_record(_texts(), {"texts": {"a": "\x1b"}})[1][0]


def _texts():
    @dataclass(frozen=True)
    class Texts:
        texts: dict[str, str]

    return Texts


def test_lists_and_lists_of_problems_have_an_end():
    assert read_record(Outer, GOOD | {"inner": [{}] * 5000})[1][99] == "inner[99].side is missing"
    assert len(read_record(Outer, GOOD | {"inner": [{}] * 5000})[1]) == 100
    assert "at most 10000" in read_record(Outer, GOOD | {"inner": [{}] * 10_001})[1][0]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, None),
        ([3, [4, 5]], None),
        (None, None),
        (0, "n is 0"),
        ([3, 0], r"n[1] is 0"),
        ([[3, "x"]], "n[0][1] is 'x'"),
        ([[[3]]], "n[0][0] is [3]"),
    ],
)
def test_a_value_or_a_list_of_them(value, problem):
    one = Annotated[int, Limits(1, 9)]
    found = check_value(one | list[one | list[one]] | None, value, "n")
    assert (found is None) if problem is None else found.startswith(problem)


@pytest.mark.parametrize("value", [True, 3, 0.5, "x", None, 0])
def test_a_value_of_several_types_keeps_its_own(value):
    @dataclass
    class Free:
        value: bool | int | float | str | None

    read, problems = read_record(Free, {"value": value})
    assert problems == []
    assert (read.value, type(read.value)) == (value, type(value))
    assert check_value(bool | int | str, [1], "n").startswith("n is [1]")
