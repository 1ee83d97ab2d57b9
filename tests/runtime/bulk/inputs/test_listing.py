"""Folders and lists as pictures in order; what is wrong with them is a sentence."""

import json
from pathlib import Path

import pytest

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.bulk.bulk import MAX_BLOCKS, _blocks
from e2e_deploy.runtime.bulk.inputs.listing import list_items
from e2e_deploy.runtime.bulk.inputs.lists import MAX_LINE
from e2e_deploy.runtime.bulk.parcel import from_orders

NAMES = ["a.png", "sub/b c.jpg", 'ü,"q".png', "a.jpg"]


@pytest.fixture
def lists(tmp_path):
    """The same paths as each kind of list."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as parquet

    table = pa.table({"id": list(range(len(NAMES))), "path": NAMES, "file": NAMES[::-1]})
    parquet.write_table(table, tmp_path / "l.parquet")
    arrow_csv.write_csv(table, tmp_path / "l.csv")
    rows = [json.dumps(row) for row in table.to_pylist()]
    (tmp_path / "l.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_lists_of_each_kind_say_the_same(lists, kind):
    listing = list_items(lists / f"l.{kind}", None)
    assert [item.path for item in listing.items] == [str(lists / name) for name in NAMES]
    assert [item.name for item in listing.items] == ["a.png", "b c", 'ü,"q"', "a.jpg"]
    assert [item.index for item in listing.items] == [0, 1, 2, 3]
    other = list_items(lists / f"l.{kind}", "file")
    assert [item.path for item in other.items] == [str(lists / name) for name in NAMES[::-1]]
    assert other.digest != listing.digest
    assert listing.digest == list_items(lists / "l.csv", None).digest


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_column_that_is_not_there(lists, kind):
    with pytest.raises(UsageError, match="has no column 'nope'; its columns are id, path, file"):
        list_items(lists / f"l.{kind}", "nope")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("l.parquet", b"PAR1 damaged PAR1", "cannot be read as Parquet"),
        ("l.csv", b"path\n\xff\xfe\n", "line 2 of .* is no UTF-8"),
        ("l.csv", b'path\n"open', "is no CSV"),
        ("l.csv", b"path\n" + b"a" * (MAX_LINE + 1), "longer than"),
        ("l.csv", b"path,b\n", "names no picture"),
        ("l.csv", b'path,b\n"",1\n', "row 1 of .* has '' as `path`; expected a path"),
        ("l.jsonl", b"[1]\n", "line 1 of .* holds a list"),
        ("l.jsonl", b'{"path": 5}\n', "row 1 of .* has 5 as `path`"),
        ("l.jsonl", b'{"path": "a\\u0000b"}\n', "row 1 of"),
        ("l.jsonl", b'{"path": "a\\ud800.png"}\n', "row 1 of .*; expected a path"),
        ("l.jsonl", b'{"path": "a"\n', "cannot be read as JSON"),
    ],
)
def test_damaged_lists_are_a_sentence(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=said):
        list_items(tmp_path / name, None)


def test_folders_in_order_without_hidden_files(tmp_path):
    for name in (
        "b.png",
        "a.jpg",
        "a.png",
        "z/y/c.PNG",
        "z/d.webp",
        "note.txt",
        ".h.png",
        ".t/e.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing = list_items(tmp_path, None)
    told = [(item.folder, item.name, Path(item.path).name) for item in listing.items]
    assert told == [
        ("", "a.jpg", "a.jpg"),
        ("", "a.png", "a.png"),
        ("", "b", "b.png"),
        ("z", "d", "d.webp"),
        ("z/y", "c", "c.PNG"),
    ]
    assert listing.others == 1
    (tmp_path / "b.png").write_bytes(b"xy")
    assert list_items(tmp_path, None).digest != listing.digest


def test_what_is_no_folder_and_no_list(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match=r"a.png is one picture, which `run` takes; expected is a"):
        list_items(tmp_path / "a.png", None)
    (tmp_path / "notes.txt").write_bytes(b"text")
    with pytest.raises(SourceError, match=r"no list and no tar by its name .* tried as a video: "):
        list_items(tmp_path / "notes.txt", None)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match="`column` is of a list"):
        list_items(tmp_path, "path")
    with pytest.raises(SourceError, match="holds no pictures"):
        list_items(tmp_path, None)
    with pytest.raises(SourceError, match=r"^\*\*\* is missing"):
        list_items(Path("s3://key:secret@bucket/in"), None)


def test_a_long_list_is_handed_on_in_few_small_pieces(tmp_path):
    """What stays in memory for each picture is bounded, and the pieces that Ray keeps are not one a shard."""
    count, shard = 40_000, 4
    lines = [f"some/long/folder/camera-{n % 7}/picture-{n:09d}.jpg" for n in range(count)]
    (tmp_path / "l.csv").write_text("\n".join(["path", *lines]))
    listing = list_items(tmp_path / "l.csv", None)
    todo = [number for number in range(count // shard) if number % 10]  # some are done
    tables = list(_blocks(listing.items, listing.shards(shard), todo))
    assert len(tables) <= MAX_BLOCKS
    assert sum(table.nbytes for table in tables) < 400 * count
    parcels = [parcel for table in tables for (parcel,) in from_orders(table)]
    assert [parcel.shard for parcel in parcels] == todo
    assert all(
        [i.index for i in p.items] == list(range(4 * p.shard, 4 * p.shard + 4)) for p in parcels
    )


def test_the_same_list_elsewhere_is_another_input(tmp_path):
    """Relative paths begin at the list's own folder: there the same names are other pictures."""
    for day, path in (
        ("one", "a.png"),
        ("two", "a.png"),
        ("three", "/data/a.png"),
        ("four", "/data/a.png"),
    ):
        (tmp_path / day).mkdir()
        (tmp_path / day / "l.csv").write_text(f"path\n{path}\n")
    one, two, three, four = (
        list_items(tmp_path / day / "l.csv", None).digest for day in ("one", "two", "three", "four")
    )
    assert one != two
    assert three == four
