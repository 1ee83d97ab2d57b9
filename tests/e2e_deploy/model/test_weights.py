import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.weights import Stored, find_weights, read_header

STEM = "model"


@pytest.fixture
def file(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(4).half(), "n": torch.zeros((), dtype=int)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def refused(file):
    with pytest.raises(CheckpointError) as caught:
        find_weights(file.parent, STEM)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def rewritten(file, change):
    """The file with another header: ``change`` gets it as a dictionary, or gives the text itself."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    header = (text if isinstance(text, str) else json.dumps(header)).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return file


def shards(folder, *, variant="", moved=()):
    """Two shards with an index, as diffusers names them."""
    names = [f"model-0000{n}-of-00002{variant}.safetensors" for n in (1, 2)]
    tensors = [{"a": torch.zeros(2, 3)}, {"b": torch.ones(4), "c": torch.ones(1)}]
    table = {}
    for name, part in zip(names, tensors, strict=True):
        save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    index = folder / f"model.safetensors.index{variant}.json"
    index.write_text(
        json.dumps({"metadata": {"total_size": 44}, "weight_map": table | dict(moved)})
    )
    return index


def test_names_types_and_shapes(file):
    assert read_header(file) == {
        "a": Stored(file, "F32", (2, 3)),
        "b": Stored(file, "F16", (4,)),
        "n": Stored(file, "I64", ()),
    }


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.1, 0.01, 0.0])
def test_a_truncated_file(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    assert str(file) in refused(file)


@pytest.mark.parametrize(
    "data",
    [
        b"not safetensors at all, but long enough to hold a length",
        b"\x02" + bytes(7) + b"[]",
        b"\x07" + bytes(7) + b'{"a":1}',
        (2**40).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
def test_foreign_bytes(file, data):
    file.write_bytes(data)
    assert f"{file} is not a safetensors file" in refused(file)


def test_trailing_bytes(file):
    with file.open("ab") as stream:
        stream.write(b"more")
    assert "truncated or damaged" in refused(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: "[" * 100_000, "nested too deep"),
        (lambda h: '{"a": {}, "a": {}}', "the key 'a' occurs twice"),
        (lambda h: h["a"].update(shape="2, 3"), "the shape of 'a' is no list of whole numbers"),
        (lambda h: h["a"].update(shape={"0": 2}), "the shape of 'a' is no list"),
        (lambda h: h["a"].update(shape=[-2, -3]), "the shape of 'a' is no list"),
        (lambda h: h["a"].update(shape=[2.0, 3]), "the shape of 'a' is no list"),
        (lambda h: h["a"].update(shape=[2**40, 2**40]), "do not have the size of its shape"),
        (lambda h: h["a"].update(shape=[3, 3]), "do not have the size of its shape"),
        (lambda h: h["a"].update(dtype="F99"), "has a dtype that is none of"),
        (lambda h: h["a"].update(dtype=["F32"]), "has a dtype that is none of"),
        (lambda h: h["a"].update(data_offsets=[0]), "do not have the size"),
        (lambda h: h["a"].update(data_offsets=h["n"]["data_offsets"]), "do not have the size"),
        (lambda h: h.update(a=[1]), "the entry of 'a' is no object"),
        (lambda h: h.update(z=h["a"]), "overlap or leave gaps"),
        (lambda h: h.pop("b"), "truncated or damaged"),
        (lambda h: h.pop("a"), "overlap or leave gaps"),
    ],
)
def test_headers_that_do_not_fit_their_file(file, change, said):
    message = refused(rewritten(file, change))
    assert said in message
    assert str(file) in message


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_read_through_their_index(tmp_path, variant):
    index = shards(tmp_path, variant=variant)
    weights = find_weights(tmp_path, STEM)
    assert weights.name == weights.index == index
    assert [f.name[:11] for f in weights.files] == ["model-00001", "model-00002"]
    assert {key: stored.file.name[:11] for key, stored in weights.tensors.items()} == {
        "a": "model-00001",
        "b": "model-00002",
        "c": "model-00002",
    }


def test_float32_shards_come_before_an_fp16_file(tmp_path, file):
    file.rename(tmp_path / "model.fp16.safetensors")
    assert find_weights(tmp_path, STEM).index is None
    index = shards(tmp_path)
    assert find_weights(tmp_path, STEM).index == index


def test_a_file_and_shards_of_the_same_weights_are_ambiguous(tmp_path, file):
    shards(tmp_path)
    assert "holds its weights twice" in refused(file)


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ({"a": "../model-00001-of-00002.safetensors"}, "no plain file name"),
        ({"a": "/etc/passwd"}, "no plain file name"),
        ({"a": ".hidden.safetensors"}, "no plain file name"),
        ({"a": 3}, "no plain file name"),
        ({"d": "model-00003-of-00003.safetensors"}, "model-00003-of-00003.safetensors is missing"),
        ({"a": "model-00002-of-00002.safetensors"}, "names 1 tensors that their shards do not"),
        ({"b": "model-00001-of-00002.safetensors"}, "holds 'b', which model.safetensors.index"),
        ({"d": "model-00002-of-00002.safetensors"}, "the first is 'd'"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(tmp_path, moved, said):
    assert said in refused(shards(tmp_path, moved=moved))


def test_a_tensor_in_two_shards(tmp_path):
    index = shards(tmp_path)
    first, second = (tmp_path / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    save_file(load_file(first) | {"b": torch.zeros(4)}, first)
    assert f"{first} holds 'b'" in refused(index)
    assert second.exists()


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', "x"])
def test_an_index_that_is_none(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    assert str(index) in refused(index)
