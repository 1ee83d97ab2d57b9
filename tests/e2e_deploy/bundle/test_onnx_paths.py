import random

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.errors import BundleError


def external(location):
    """A tensor whose data lies in ``location``; decoy keys surround it."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("checksum", "location")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(values, indices=None):
    found = onnx.SparseTensorProto(dims=[4])
    found.values.CopyFrom(values)
    found.indices.CopyFrom(indices or helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]))
    return found


def graph_with(**fields):
    return onnx.GraphProto(name="g", **fields)


def node_with(attribute):
    node = onnx.NodeProto(op_type="Constant", output=["y"])
    node.attribute.append(attribute)
    return node


def attribute(kind, value):
    types = {
        "t": "TENSOR",
        "tensors": "TENSORS",
        "g": "GRAPH",
        "graphs": "GRAPHS",
        "sparse_tensor": "SPARSE_TENSOR",
        "sparse_tensors": "SPARSE_TENSORS",
    }
    found = onnx.AttributeProto(name="a", type=onnx.AttributeProto.AttributeType.Value(types[kind]))
    if kind in ("tensors", "graphs", "sparse_tensors"):
        getattr(found, kind).append(value)
    else:
        getattr(found, kind).CopyFrom(value)
    return found


WAYS = {
    "initializer": lambda t: graph_with(initializer=[t]),
    "sparse initializer values": lambda t: graph_with(sparse_initializer=[sparse(t)]),
    "sparse initializer indices": lambda t: graph_with(sparse_initializer=[sparse(external("v"), t)]),
    "attribute": lambda t: graph_with(node=[node_with(attribute("t", t))]),
    "attribute list": lambda t: graph_with(node=[node_with(attribute("tensors", t))]),
    "sparse attribute": lambda t: graph_with(node=[node_with(attribute("sparse_tensor", sparse(t)))]),
    "sparse list": lambda t: graph_with(node=[node_with(attribute("sparse_tensors", sparse(t)))]),
}  # fmt: skip


def nested(graph, depth, as_list):
    for _ in range(depth):
        graph = graph_with(node=[node_with(attribute("graphs" if as_list else "g", graph))])
    return graph


def saved(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


names = st.text("abc./é ", min_size=1, max_size=12)


def tensors_of(message):
    """Every TensorProto in a message, found by reflection: the onnx package's own view."""
    if isinstance(message, TensorProto):
        yield message
        return
    for _, value in message.ListFields():
        for item in [value] if hasattr(value, "ListFields") else value if _many(value) else []:
            if hasattr(item, "ListFields"):
                yield from tensors_of(item)


def _many(value):
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


def locations_by_onnx(path):
    model = onnx.load(path, load_external_data=False)
    return {
        entry.value
        for tensor in tensors_of(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }


@given(
    places=st.lists(
        st.tuples(st.sampled_from(list(WAYS)), names, st.integers(0, 4), st.booleans()), max_size=6
    ),
    holder=st.sampled_from(["graph", "function", "function attribute", "training"]),
)
@settings(deadline=None, max_examples=150)
def test_the_onnx_package_finds_the_same_locations(folder, places, holder):
    model = onnx.ModelProto(ir_version=10, producer_name="location")
    model.metadata_props.add(key="location", value="only metadata")
    for way, name, depth, as_list in places:
        graph = nested(WAYS[way](external(name)), depth, as_list)
        if holder == "graph":
            model.graph.MergeFrom(graph)
        elif holder == "function":
            model.functions.add(name="f").node.append(node_with(attribute("g", graph)))
        elif holder == "function attribute":
            model.functions.add(name="f").attribute_proto.append(attribute("g", graph))
        else:
            model.training_info.add().algorithm.CopyFrom(graph)
    path = saved(model, folder)
    expected = locations_by_onnx(path)
    assert {name for _, name, _, _ in places} <= expected
    assert external_locations(path) == expected


def test_inline_weights_point_nowhere(folder):
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])
    model = onnx.ModelProto(graph=graph_with(initializer=[weights]))
    assert external_locations(saved(model, folder)) == set()


def test_a_graph_in_two_pieces_is_one_graph(folder):
    """Protocol buffers merge a message that is written twice."""
    pieces = [onnx.ModelProto(graph=WAYS["initializer"](external(name))) for name in "ab"]
    path = saved(b"".join(p.SerializeToString() for p in pieces), folder)
    assert external_locations(path) == locations_by_onnx(path) == {"a", "b"}


def test_the_last_of_several_values_counts(folder):
    entry = onnx.StringStringEntryProto(key="location", value="first").SerializeToString()
    entry += onnx.StringStringEntryProto(value="last").SerializeToString()
    data = entry
    for number in (13, 5, 7):  # Tensor.external_data, Graph.initializer, Model.graph
        data = bytes([number << 3 | 2]) + _varint(len(data)) + data
    path = saved(data, folder)
    assert external_locations(path) == locations_by_onnx(path) == {"last"}


def _varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_a_tag_that_only_a_32_bit_parser_reads_as_the_graph_is_refused(folder):
    graph = WAYS["initializer"](external("../secret")).SerializeToString()
    data = _varint(7 << 3 | 2 | 1 << 32) + _varint(len(graph)) + graph
    with pytest.raises(BundleError, match="field number"):
        external_locations(saved(data, folder))


@pytest.mark.parametrize(
    "data",
    [
        b"this is no onnx file",
        b"\x3a\xff\xff\xff\xff\x07",  # a graph that is longer than the file
        b"\x3b\x3c",  # groups, which ONNX does not have
        b"\xff" * 11,
        b"\x3a",
    ],
)
def test_garbage_is_refused(folder, data):
    with pytest.raises(BundleError, match="is not an ONNX file"):
        external_locations(saved(data, folder))


def test_a_name_that_is_no_text_is_refused(folder):
    data = WAYS["initializer"](external("XYZ")).SerializeToString().replace(b"XYZ", b"\xff\xfe\xfd")
    data = b"\x3a" + _varint(len(data)) + data
    with pytest.raises(BundleError, match="is not an ONNX file"):
        external_locations(saved(data, folder))


def test_endless_nesting_is_refused(folder):
    data = b""
    for _ in range(3000):  # Graph.node, Node.attribute, Attribute.g
        for number in (6, 5, 1):
            data = bytes([number << 3 | 2]) + _varint(len(data)) + data
    data = b"\x3a" + _varint(len(data)) + data
    with pytest.raises(BundleError, match="is not an ONNX file"):
        external_locations(saved(data, folder))


def test_damaged_bytes_give_locations_or_a_bundle_error(folder):
    graph = nested(WAYS["attribute"](external("weights.data")), 2, True)
    whole = onnx.ModelProto(ir_version=10, graph=graph).SerializeToString()
    generator = random.Random(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            external_locations(saved(bytes(data), folder))
            outcomes.add("read")
        except BundleError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def part(number, content):
    """A field of a message."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


MANY = 100_001


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        *((part(1, part(number, b"") * 257), "a node of more than 256 p") for number in (1, 2, 5)),
        (part(1, part(5, b"\x18\x01" * 1001)), "a attribute of more than 1000 p"),
        (part(5, b"\x08\x01" * 1001), "a tensor of more than 1000 p"),
        (part(13, b"") * MANY, "a graph of more than 100000 p"),
        (part(1, part(3, bytes(2**24))), "more than 16777216 bytes beside the values of its tensors"),
        (part(5, part(7, b"\x01" * 2**24)), "more than 16777216 bytes beside"),
        (part(5, part(13, part(1, b"k") + part(9, bytes(2**24)))), "more than 16777216 bytes beside"),
        (part(13, part(2, part(1, part(2, part(1, b"") * 2**23)))), "more than 16777216 bytes beside"),
    ],
)  # fmt: skip
def test_more_parts_than_any_graph_of_ours(folder, graph, what):
    with pytest.raises(BundleError, match=rf"holds {what}.*it is not loaded: export"):
        external_locations(saved(part(7, graph), folder))


def test_as_many_parts_as_allowed(folder):
    node = part(1, b"") * 256
    assert external_locations(saved(part(7, part(1, node) * 300), folder)) == set()
    weights = part(9, bytes(2**24)) + part(13, part(1, b"location") + part(2, b"w.data"))
    assert external_locations(saved(part(7, part(5, weights)), folder)) == {"w.data"}
