"""What a manifest may hold, whoever wrote it."""

import copy
import hashlib
import json
import os
import random
from dataclasses import asdict

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import MANIFEST
from e2e_deploy.errors import BundleError
from tests.plain_bundle import edit_manifest, write_plain_bundle

GRAPH, REFERENCE = "model_24x32.onnx", "reference/24x32.npz"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "not json", "\x00\xff", "[" * 100_000),
        *('{"schema": ' + "9" * 5000 + "}", '{"schema": -9223372036854775808}'),
    ],
)
def test_a_manifest_that_is_no_json(refused, bundle, text):
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(bundle, "manifest.json cannot be read as JSON")


@pytest.mark.parametrize("more", ["\x00", "\x00{}", "x", "{}"])
def test_a_manifest_with_more_behind_it(refused, bundle, more):
    with (bundle / MANIFEST).open("a") as stream:
        stream.write(more)
    refused(bundle, "manifest.json cannot be read as JSON")


@pytest.mark.parametrize("text", ["{}", '{"schema": 1}', '{"schema": true}', '{"schema": "3"}'])
def test_a_manifest_of_another_schema(refused, bundle, text):
    (bundle / MANIFEST).write_text(text)
    refused(bundle, r"has schema .*; this version reads 6 and 7: export the bundle again")


VAE = {
    "id": "taesd",
    "sha256": "0" * 64,
    "part": "decoder",
    "costs": [{"frame_size": [24, 32], "output": "depth", "parity": {"abs_rel": 0.01}}],
}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda vae: vae.update(part="half"), "vae.part is 'half'; expected 'both' or 'encoder'"),
        (lambda vae: vae.update(sha256="0"), "vae.sha256 is '0'; expected 64 hexadecimal digits"),
        (lambda vae: vae.pop("costs"), "vae.costs is missing"),
        (lambda vae: vae.update(more=1), "unknown key vae.more"),
        (lambda vae: vae["costs"][0].pop("parity"), r"vae.costs\[0\].parity is missing"),
        (lambda vae: vae["costs"][0].update(output=3), "expected a value of type"),
        (lambda vae: vae["costs"][0].update(frame_size=[24]), "expected 2: height and width"),
    ],
)
def test_a_vae_that_is_told_wrong(refused, bundle, change, match):
    vae = VAE | {"costs": [dict(each) for each in VAE["costs"]]}
    change(vae)
    edit_manifest(bundle, lambda m: m.update(vae=vae))
    refused(bundle, match)


def test_a_vae_is_told_in_every_manifest_of_today(refused, bundle):
    edit_manifest(bundle, lambda m: m.pop("vae"))
    refused(bundle, "vae is missing")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_a_manifest_that_is_no_object(refused, bundle, text):
    (bundle / MANIFEST).write_text(text)
    refused(bundle, "expected a JSON object")


@pytest.mark.parametrize("kind", ["fifo", "large"])
def test_a_manifest_that_is_no_file_to_read_whole(refused, bundle, kind):
    (bundle / MANIFEST).unlink()
    if kind == "fifo":
        os.mkfifo(bundle / MANIFEST)
    else:
        with (bundle / MANIFEST).open("wb") as stream:
            stream.truncate(2**33)
    refused(bundle, "a named pipe, not a regular file" if kind == "fifo" else "at most .* are read")


@pytest.mark.parametrize("where", ["top", "checkpoint", "graph", "file", "output"])
@pytest.mark.parametrize("unknown", [False, True])
def test_missing_and_unknown_keys_are_named(refused, bundle, where, unknown):
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
    refused(bundle, "unknown key .*surprise .known: " if unknown else "is missing")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["family"], 3),
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
def test_values_of_the_wrong_type(refused, bundle, path, value):
    def change(manifest):
        for step in path[:-1]:
            manifest = manifest[step]
        manifest[path[-1]] = value

    edit_manifest(bundle, change)
    refused(bundle, "expected a (value of type|list)|must be a table")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda m: m.update(task="pose"),
            "manifest.json: task is 'pose'; expected one of depth, ",
        ),
        (lambda m: m.update(precision="int3"), "precision is 'int3'"),
        (lambda m: m.update(graphs=[]), "lists no graph"),
        (
            lambda m: m["graphs"][0].update(frame_size=[24]),
            "frame_size has 1 entries; expected 2: height and width",
        ),
        (lambda m: m["graphs"][0].update(frame_size=[0, 32]), "is 0; expected at least 1"),
        (lambda m: m["graphs"][0].update(frame_size=[24, 10**9]), "at least 1 and at most 65536"),
        (lambda m: m["graphs"][0].update(processing_size=[]), "has 0 entries"),
        (lambda m: m["files"][GRAPH].update(bytes=-1), "is -1; expected at least 0"),
        (lambda m: m["files"][GRAPH].update(sha256="0" * 63), "expected 64 hexadecimal digits"),
        (lambda m: m.update(opset=10**6), "opset is 1000000; expected at least 1"),
        (lambda m: m.update(resolution=-5), "resolution is -5"),
        (lambda m: m.update(notes=["x"] * 10_001), "has 10001 entries; expected at most 10000"),
        (
            lambda m: m["graphs"][0]["inputs"][0].update(dtype="float64"),
            "expected 'uint8' or 'float32'",
        ),
        (
            lambda m: m.update(
                passes=[
                    {"name": "a", "parameters_before": 1, "parameters_after": 1}
                    | {"macs_before": 0, "macs_after": 0}
                ]
            ),
            "macs_before is 0",
        ),
        (
            lambda m: m.update(outputs=[]),
            r"outputs of manifest.json are \[\]; expected one or more",
        ),
        (lambda m: m.update(outputs=["depth", "depth"]), "expected one or more, each once"),
        (lambda m: m.update(outputs=["distance"]), "is 'distance'; expected one of depth, "),
        (lambda m: m.update(outputs=["disparity"]), r"output \[1, 24, 32\], float32 'disparity'"),
        (
            lambda m: m.update(outputs=["depth", "normals"]),
            r"one output \[1, 24, 32\], float32 'depth' and one output \[1, 24, 32, 3\], float32 'normals'",
        ),
        (lambda m: m["graphs"][0]["outputs"].append(m["graphs"][0]["outputs"][0]), "one output"),
        (lambda m: m["graphs"][0]["outputs"][0].update(name="x"), "float32 'depth'"),
        (lambda m: m["graphs"][0]["outputs"][0].update(dtype="uint8"), "float32 'depth'"),
        (lambda m: m["graphs"][0].update(outputs=[]), "one output"),
        (lambda m: m["graphs"][0].update(inputs=[]), r"one input \[1, 24, 32, 3\]"),
        (lambda m: m["graphs"][0]["outputs"][0].update(shape=[24, 32]), r"output \[1, 24, 32\]"),
        (lambda m: m["graphs"][0].update(kind="half"), "is 'half'; expected 'frame' or 'core'"),
        (lambda m: m["graphs"][0].update(multiple_of=64), "fixed sides for frames"),
        (
            lambda m: m["graphs"][0].update(kind="core", multiple_of=-1),
            "is -1; expected at least 0",
        ),
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
def test_values_that_mean_nothing(refused, bundle, change, match):
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
            {
                "frame_size": [24, 32],
                "output": "depth",
                "backend": DIRTY,
                "precision": "fp32",
                "passed": True,
            }
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


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_graph_says_how_many_pictures_it_takes_at_once(tmp_path, batch):
    opened = open_bundle(write_plain_bundle(tmp_path / "bundle", batch=batch))
    (graph,) = opened.manifest.graphs
    assert graph.batch == batch
    assert opened.reference(graph)[0].shape == (2, 24, 32, 3)  # pictures, whatever the batch


@pytest.mark.parametrize("batch", [0, 65, -1])
def test_a_batch_that_no_graph_takes(refused, bundle, batch):
    def change(manifest):
        for side in ("inputs", "outputs"):
            manifest["graphs"][0][side][0]["shape"][0] = batch

    edit_manifest(bundle, change)
    refused(bundle, "expected 1 to 64")


def test_a_batch_that_input_and_output_do_not_share(refused, bundle):
    edit_manifest(bundle, lambda m: m["graphs"][0]["outputs"][0]["shape"].__setitem__(0, 2))
    refused(bundle, "with one input .* and one output")
