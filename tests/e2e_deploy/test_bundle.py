import copy
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import onnx
import pytest

from e2e_deploy.bundle import open_bundle, safe_path
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.manifest import MANIFEST, parse_manifest
from tests.plain_bundle import HW, edit_manifest, plain_model, rehash, write_plain_bundle

GRAPH, REFERENCE = "model_24x32.onnx", "reference/24x32.npz"


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


def refused(root, match):
    with pytest.raises(BundleError, match=match) as caught:
        open_bundle(root)
    assert "\n" not in str(caught.value)


def test_what_was_written_is_read_back(bundle):
    opened = open_bundle(str(bundle))
    manifest = opened.manifest
    assert manifest == parse_manifest((bundle / MANIFEST).read_text())
    assert set(manifest.files) == {GRAPH, REFERENCE}
    assert manifest.frame_sizes == [HW]
    assert manifest.task_info.name == "depth"
    frames, results = opened.reference(opened.graph_for(HW))
    assert (frames.shape, frames.dtype) == ((2, *HW, 3), np.uint8)
    assert (results.shape, results.dtype) == ((2, *HW), np.float32)


def test_a_size_it_does_not_hold_names_what_it_holds_and_the_way_out(bundle):
    with pytest.raises(UsageError, match=r"has 24x32; export with --frame-size 48x64"):
        open_bundle(bundle).graph_for((48, 64))


def test_a_file_that_is_not_listed(bundle):
    (bundle / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="extra.bin is not listed"):
        open_bundle(bundle).file("extra.bin")


def test_not_a_bundle(tmp_path):
    refused(tmp_path / "nothing", "does not exist")
    refused(tmp_path, "has no manifest.json")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "has no manifest.json")


@pytest.mark.parametrize("name", [GRAPH, REFERENCE])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_changed_file(bundle, name, damage):
    file = bundle / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = data[:-1]
    elif damage == "grow":
        data += b"x"
    file.write_bytes(data)
    if damage == "remove":
        file.unlink()
    refused(bundle, f"{name} (is missing|of .* is not the file that was exported)")


def test_a_wrong_hash_in_the_manifest(bundle):
    edit_manifest(bundle, lambda m: m["files"][GRAPH].update(sha256="0" * 64))
    refused(bundle, "size or SHA-256 differs")


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "\x00\xff", "[" * 100_000, '{"schema": ' + "9" * 5000 + "}"]
)
def test_a_manifest_that_is_no_json(bundle, text):
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(bundle, "manifest.json cannot be read as JSON")


@pytest.mark.parametrize("text", ["{}", '{"schema": 1}', '{"schema": true}', '{"schema": "3"}'])
def test_a_manifest_of_another_schema(bundle, text):
    (bundle / MANIFEST).write_text(text)
    refused(bundle, r"has schema .*; this version reads \d+: export the bundle again")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_a_manifest_that_is_no_object(bundle, text):
    (bundle / MANIFEST).write_text(text)
    refused(bundle, "expected a JSON object")


@pytest.mark.parametrize("kind", ["fifo", "large"])
def test_a_manifest_that_is_no_file_to_read_whole(bundle, kind):
    (bundle / MANIFEST).unlink()
    if kind == "fifo":
        os.mkfifo(bundle / MANIFEST)
    else:
        with (bundle / MANIFEST).open("wb") as stream:
            stream.truncate(2**33)
    refused(bundle, "a named pipe, not a regular file" if kind == "fifo" else "at most .* are read")


@pytest.mark.parametrize("where", ["top", "checkpoint", "graph", "file", "output"])
@pytest.mark.parametrize("unknown", [False, True])
def test_missing_and_unknown_keys_are_named(bundle, where, unknown):
    def change(manifest):
        entry, key = {
            "top": (manifest, "family"),
            "checkpoint": (manifest["checkpoint"], "note"),
            "graph": (manifest["graphs"][0], "onnx"),
            "file": (manifest["files"][GRAPH], "sha256"),
            "output": (manifest["graphs"][0]["outputs"][0], "dtype"),
        }[where]
        if unknown:
            entry["surprise"] = 1
        else:
            del entry[key]

    edit_manifest(bundle, change)
    refused(bundle, "missing or unknown keys: " + ("surprise" if unknown else ""))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["task"], 3),
        (["opset"], "20"),
        (["opset"], True),
        (["resolution"], 1.5),
        (["fp32_ops"], [1]),
        (["graphs"], {}),
        (["graphs"], [3]),
        (["graphs", 0, "frame_size"], ["24", "32"]),
        (["graphs", 0, "outputs", 0, "shape"], "1"),
        (["versions"], {"torch": 2}),
        (["checkpoint"], "plain"),
        (["files"], []),
        (["files", GRAPH], "hash"),
        (["files", GRAPH, "bytes"], "12"),
        (["created"], None),
    ],
)
def test_values_of_the_wrong_type(bundle, path, value):
    def change(manifest):
        for step in path[:-1]:
            manifest = manifest[step]
        manifest[path[-1]] = value

    edit_manifest(bundle, change)
    refused(bundle, "must be of type")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(task="pose"), "task of the manifest is 'pose'; expected one of depth"),
        (lambda m: m.update(precision="int3"), "precision of the manifest is 'int3'"),
        (lambda m: m.update(graphs=[]), "lists no graph"),
        (lambda m: m["graphs"][0].update(frame_size=[24]), r"\[24\]; expected \[height, w"),
        (lambda m: m["graphs"][0].update(frame_size=[0, 32]), "is 0; expected a number from 1"),
        (lambda m: m["graphs"][0].update(frame_size=[24, 10**9]), "a number from 1 to 65536"),
        (lambda m: m["graphs"][0].update(processing_size=[]), r"expected \[height, width\]"),
        (lambda m: m["files"][GRAPH].update(bytes=-1), "is -1; expected a number from 0"),
        (lambda m: m["files"][GRAPH].update(sha256="0" * 63), "must be 64 hexadecimal digits"),
        (lambda m: m.update(opset=10**6), "opset of the manifest is 1000000; expected a number"),
        (lambda m: m.update(resolution=-5), "resolution of the manifest is -5"),
        (lambda m: m.update(notes=["x"] * 10_001), "has 10001 entries, over 10000"),
        (lambda m: m["graphs"][0]["inputs"][0].update(dtype="float64"), "expected one of uint8"),
        (
            lambda m: m.update(
                passes=[
                    {"name": "a", "parameters_before": 1, "parameters_after": 1}
                    | {"macs_before": 0, "macs_after": 0}
                ]
            ),
            "macs_before of the manifest is 0",
        ),
        (lambda m: m["graphs"][0].update(inputs=[]), r"one input \[1, 24, 32, 3\]"),
        (lambda m: m["graphs"][0]["outputs"][0].update(shape=[24, 32]), r"output \[1, 24, 32\]"),
        (lambda m: m["graphs"][0].update(kind="half"), "is 'half'; expected one of frame, core"),
        (lambda m: m["graphs"][0].update(multiple_of=64), "fixed sides for frames"),
        (lambda m: m["graphs"][0].update(kind="core", multiple_of=-1), "is -1; expected a"),
        (lambda m: m["graphs"][0].update(kind="core"), r"one input \[1, 3, 24, 32\]"),
        (
            lambda m: m["graphs"][0].update(kind="core", multiple_of=64),
            r"one input \[1, 3, -1, -1\] and one output \[1, 1, -1, -1\]",
        ),
        (lambda m: m["graphs"][0].update(onnx="model.ort"), "must be an .onnx file"),
        (lambda m: m["graphs"][0].update(onnx="other.onnx"), "not listed in the manifest"),
        (lambda m: m["graphs"][0].update(reference="other.npz"), "not listed in the manifest"),
    ],
)
def test_values_that_mean_nothing(bundle, change, match):
    edit_manifest(bundle, change)
    refused(bundle, match)


DIRTY = "\x1b]0;owned\x07\x1b[2J\nnext\x00\u202e\ud800 " + "x" * 10_000


def test_texts_are_cleaned_wherever_they_stand(bundle):
    """They reach terminals, containers (a lone surrogate ended FFmpeg's), pages and other JSON."""

    def change(manifest):
        manifest["checkpoint"].update(note=DIRTY, id=DIRTY)
        manifest["notes"] = [DIRTY, "a note as it is,  with two spaces"]
        manifest["versions"] = {DIRTY: DIRTY}
        manifest["created"] = manifest["family"] = DIRTY
        manifest["graphs"][0]["outputs"][0]["meaning"] = DIRTY
        manifest["verification"] = [
            {"frame_size": [24, 32], "backend": DIRTY, "precision": "fp32", "passed": True}
            | {"parity": {DIRTY: [{DIRTY: DIRTY}]}, "speed": {}}
        ]

    edit_manifest(bundle, change)

    def texts(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from texts([*value, *value.values()])
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)

    manifest = open_bundle(bundle).manifest
    assert manifest.notes[1] == "a note as it is,  with two spaces"
    found = list(texts(asdict(manifest)))
    assert sum(text.endswith("…") for text in found) >= 10
    for text in found:
        assert text.isprintable()
        assert len(text.encode()) < 13_000


@pytest.mark.parametrize("place", ["task", "missing key", "path", "weights", "size"])
def test_messages_about_it_can_be_printed(bundle, place):
    dirty = "\x1b[2J\u202e\ud800"

    def change(manifest):
        if place == "task":
            manifest["task"] = dirty
        elif place == "missing key":
            manifest[dirty] = 1
        elif place == "path":
            manifest["files"][dirty] = {"bytes": 1, "sha256": "0" * 64}
        elif place == "size":
            manifest["graphs"][0]["frame_size"] = [dirty]
        else:
            manifest["graphs"][0]["onnx"] = dirty + ".onnx"

    edit_manifest(bundle, change)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    assert str(caught.value).isprintable()


def test_damaged_manifests_and_graphs_give_a_bundle_or_a_bundle_error(bundle):
    """Bytes, values and graphs changed at random: nothing else comes out."""
    generator, outcomes = random.Random(0), set()
    whole = json.loads((bundle / MANIFEST).read_text())
    graph = (bundle / GRAPH).read_bytes()
    values = [None, True, -1, 0, 1.5, 1e300, 2**63, "", "x", "../x", [], {}, [[]], {"a": 1}]

    def places(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            if isinstance(value[key], dict | list):
                yield from places(value[key])

    for turn in range(240):
        (bundle / GRAPH).write_bytes(graph)
        manifest = copy.deepcopy(whole)
        if turn % 4 == 0:
            data = bytearray(graph)
            for _ in range(generator.randint(1, 4)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            (bundle / GRAPH).write_bytes(data)
            entry = manifest["files"][GRAPH]
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        elif turn % 4 == 1:
            where, key = generator.choice(list(places(manifest)))
            where[key] = generator.choice(values)
        elif turn % 4 == 2:
            where, key = generator.choice(list(places(manifest)))
            del where[key]
        text = bytearray(json.dumps(manifest).encode())
        if turn % 4 == 3:
            for _ in range(generator.randint(1, 3)):
                text[generator.randrange(len(text))] = generator.randrange(256)
        (bundle / MANIFEST).write_bytes(text)
        try:
            opened = open_bundle(bundle)
            for entry in opened.manifest.graphs:
                opened.reference(entry)
            outcomes.add("opened")
        except BundleError:
            outcomes.add("refused")
    assert outcomes == {"opened", "refused"}


OUTSIDE = [
    "../secret",
    "a/../../secret",
    "/etc/hostname",
    "C:/secret",
    "..\\secret",
    "~/x:y",
    "",
    "*/_ORT_MEM_ADDR_/*",
    "a\nb",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listed_path_that_leaves_the_folder(bundle, name):
    edit_manifest(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    refused(bundle, "leaves its folder or is no plain file name|a b is missing")


def test_links_out_of_the_folder(bundle, tmp_path):
    secret = tmp_path / "secret.onnx"
    shutil.copy(bundle / GRAPH, secret)
    (bundle / GRAPH).unlink()
    (bundle / GRAPH).symlink_to(secret)
    refused(bundle, "reached through a link")


def test_a_linked_subfolder(bundle, tmp_path):
    shutil.move(bundle / "reference", tmp_path / "elsewhere")
    (bundle / "reference").symlink_to(tmp_path / "elsewhere")
    refused(bundle, "reached through a link")


def test_a_bundle_may_itself_be_reached_through_a_link(bundle, tmp_path):
    (tmp_path / "latest").symlink_to(bundle)
    assert open_bundle(tmp_path / "latest").manifest.task == "depth"


def test_plain_names_are_paths_in_the_folder(tmp_path):
    for name in ("model.onnx", "engines/NVIDIA L4-fp16.engine", "./a"):
        assert safe_path(tmp_path, name).is_relative_to(tmp_path)


def point(bundle, location, *, graph=GRAPH, nested=False):
    """Let the graph take its scale from ``location``; in a subgraph's attribute if ``nested``."""
    model = plain_model(HW)
    tensor = next(t for t in model.graph.initializer if t.name == "scale")
    if nested:
        branch = onnx.GraphProto(name="then")
        node = branch.node.add(op_type="Constant", output=["w"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
        outer = model.graph.node.add(op_type="If", input=["c"], output=["y"])
        outer.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(branch)
        tensor = outer.attribute[0].g.node[0].attribute[0].t
    data = tensor.raw_data or np.float32(255).tobytes()
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(data)))
    (bundle / graph).write_bytes(model.SerializeToString())
    rehash(bundle, graph)
    return data


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_outside_the_folder(bundle, location, nested):
    point(bundle, location, nested=nested)
    refused(bundle, "leaves its folder or is no plain file name|takes weights from ''")


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_a_file_that_is_not_listed(bundle, nested):
    (bundle / "model.data").write_bytes(point(bundle, "model.data", nested=nested))
    refused(bundle, "takes weights from 'model.data', which the manifest does not list")


def test_weights_in_a_listed_file(bundle):
    (bundle / "model.data").write_bytes(point(bundle, "model.data"))
    rehash(bundle, "model.data")
    assert "model.data" in open_bundle(bundle).manifest.files


def test_weights_are_looked_for_beside_the_graph(bundle, tmp_path):
    """The listed file at the top must not stand for the unlisted link beside the graph, which is what would be read."""
    (bundle / "graphs").mkdir()
    data = point(bundle, "weights.data", graph="graphs/model.onnx")
    (bundle / "weights.data").write_bytes(data)
    rehash(bundle, "weights.data")
    edit_manifest(bundle, lambda m: m["graphs"][0].update(onnx="graphs/model.onnx"))
    refused(bundle, "which the manifest does not list")
    (bundle / "graphs/weights.data").symlink_to(tmp_path / "secret")
    refused(bundle, "reached through a link")


def test_a_graph_that_is_no_onnx(bundle):
    (bundle / GRAPH).write_bytes(b"this is text")
    rehash(bundle, GRAPH)
    refused(bundle, "is not an ONNX file")


@pytest.mark.parametrize("content", ["text", "npy", "names", "dtype", "shape", "none", "cut"])
def test_a_reference_that_holds_something_else(bundle, content):
    file = bundle / REFERENCE
    frames, results = np.zeros((1, *HW, 3), np.uint8), np.zeros((1, *HW), np.float32)
    if content == "text":
        file.write_text("hello")
    elif content == "npy":
        np.save(file.with_suffix(".npy"), frames)
        file.with_suffix(".npy").rename(file)
    elif content == "names":
        np.savez(file, a=frames)
    elif content == "dtype":
        np.savez(file, frames=frames, results=results.astype(np.float64))
    elif content == "shape":
        np.savez(file, frames=frames, results=results[:, :-1])
    elif content == "none":
        np.savez(file, frames=frames[:0], results=results[:0])
    else:
        file.write_bytes(file.read_bytes()[:-40])
    rehash(bundle, REFERENCE)
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=r"24x32\.npz holds"):
        opened.reference(opened.graph_for(HW))


def test_a_reference_that_is_larger_than_it_looks(bundle):
    """What its header says is compared before a byte is unpacked."""
    count = 10 * 2**30 // (HW[0] * HW[1] * 3)
    for shape, packing, match in (
        ((count, *HW, 3), zipfile.ZIP_DEFLATED, "at most 1073741824 are read"),
        ((count * HW[0] * HW[1] * 3,), zipfile.ZIP_DEFLATED, "expected uint8"),
        ((1, *HW, 3), zipfile.ZIP_LZMA, "in a way that np.savez does not write"),
    ):
        with zipfile.ZipFile(bundle / REFERENCE, "w", packing) as archive:
            header = io.BytesIO()
            facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, facts)
            archive.writestr("frames.npy", header.getvalue() + bytes(1000))
        rehash(bundle, REFERENCE)
        opened = open_bundle(bundle)
        with pytest.raises(BundleError, match=match):
            opened.reference(opened.graph_for(HW))


def test_pickles_in_a_reference_are_not_read(bundle, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(bundle / REFERENCE, frames=np.array([Evil()], dtype=object), results=np.zeros(1))
    rehash(bundle, REFERENCE)
    opened = open_bundle(bundle)
    with pytest.raises(BundleError):
        opened.reference(opened.graph_for(HW))
    assert not (tmp_path / "pwned").exists()
