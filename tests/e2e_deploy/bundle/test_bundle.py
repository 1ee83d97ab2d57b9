import io
import os
import shutil
import zipfile

import numpy as np
import onnx
import pytest

from e2e_deploy.bundle import reference
from e2e_deploy.bundle.bundle import open_bundle, safe_path
from e2e_deploy.bundle.manifest import MANIFEST, parse_manifest
from e2e_deploy.errors import BundleError, UsageError
from tests.plain_bundle import HW, edit_manifest, plain_model, rehash, write_plain_bundle

GRAPH, REFERENCE = "model_24x32.onnx", "reference/24x32.npz"


def test_a_bundle_written_before_vaes_were_told_opens(bundle):
    def before(manifest):
        assert manifest.pop("vae") is None
        manifest["schema"] = 6

    edit_manifest(bundle, before)
    manifest = open_bundle(bundle).manifest
    assert (manifest.schema, manifest.vae) == (7, None)


def test_a_bundle_tells_its_vae(bundle):
    cost = {"frame_size": list(HW), "output": "depth", "parity": {"abs_rel": 0.01}}
    vae = {"id": "taesd", "sha256": "0" * 64, "part": "both", "costs": [cost]}
    edit_manifest(bundle, lambda manifest: manifest.update(vae=vae))
    told = open_bundle(bundle).manifest.vae
    assert (told.id, told.part, told.costs[0].parity) == ("taesd", "both", {"abs_rel": 0.01})


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


def test_what_was_written_is_read_back(bundle):
    opened = open_bundle(str(bundle))
    manifest = opened.manifest
    assert manifest == parse_manifest((bundle / MANIFEST).read_text())
    assert set(manifest.files) == {GRAPH, REFERENCE}
    assert manifest.frame_sizes == [HW]
    assert manifest.kinds[0].name == "depth"
    frames, results = opened.reference(opened.graph_for(HW))
    assert (frames.shape, frames.dtype) == ((2, *HW, 3), np.uint8)
    assert list(results) == ["depth"]
    assert (results["depth"].shape, results["depth"].dtype) == ((2, *HW), np.float32)


def test_a_size_it_does_not_hold_names_what_it_holds_and_the_way_out(bundle):
    with pytest.raises(UsageError, match=r"has 24x32; export with `frame_sizes=\[\(48, 64\)\]`"):
        open_bundle(bundle).graph_for((48, 64))


def test_a_file_that_is_not_listed(bundle):
    (bundle / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="extra.bin is not listed"):
        open_bundle(bundle).file("extra.bin")


def test_not_a_bundle(refused, tmp_path):
    refused(tmp_path / "nothing", "does not exist")
    refused(tmp_path, "has no manifest.json")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "has no manifest.json")


@pytest.mark.parametrize("name", [GRAPH, REFERENCE])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_changed_file(refused, bundle, name, damage):
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


def test_a_wrong_hash_in_the_manifest(refused, bundle):
    edit_manifest(bundle, lambda m: m["files"][GRAPH].update(sha256="0" * 64))
    refused(bundle, "size or SHA-256 differs")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listed_path_that_leaves_the_folder(refused, bundle, name):
    edit_manifest(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    refused(bundle, "leaves its folder or is no plain file name|a b is missing")


def test_links_out_of_the_folder(refused, bundle, tmp_path):
    secret = tmp_path / "secret.onnx"
    shutil.copy(bundle / GRAPH, secret)
    (bundle / GRAPH).unlink()
    (bundle / GRAPH).symlink_to(secret)
    refused(bundle, "reached through a link")


def test_a_linked_subfolder(refused, bundle, tmp_path):
    shutil.move(bundle / "reference", tmp_path / "elsewhere")
    (bundle / "reference").symlink_to(tmp_path / "elsewhere")
    refused(bundle, "reached through a link")


def test_no_path_is_the_folder_one_is_in(bundle, monkeypatch):
    monkeypatch.chdir(bundle)
    assert open_bundle("").manifest.graphs[0].onnx == GRAPH


def test_a_bundle_may_itself_be_reached_through_a_link(bundle, tmp_path):
    (tmp_path / "latest").symlink_to(bundle)
    assert open_bundle(tmp_path / "latest").manifest.task == "depth"


def test_plain_names_are_paths_in_the_folder(tmp_path):
    for name in ("model.onnx", "plans/NVIDIA L4-fp16.plan", "./a"):
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
def test_weights_outside_the_folder(refused, bundle, location, nested):
    point(bundle, location, nested=nested)
    refused(bundle, "leaves its folder or is no plain file name|takes weights from ''")


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_a_file_that_is_not_listed(refused, bundle, nested):
    (bundle / "model.data").write_bytes(point(bundle, "model.data", nested=nested))
    refused(bundle, "takes weights from 'model.data', which the manifest does not list")


def test_weights_in_a_listed_file(bundle):
    (bundle / "model.data").write_bytes(point(bundle, "model.data"))
    rehash(bundle, "model.data")
    assert "model.data" in open_bundle(bundle).manifest.files


def test_weights_are_looked_for_beside_the_graph(refused, bundle, tmp_path):
    """The listed file at the top must not stand for the unlisted link beside the graph, which is what would be read."""
    (bundle / "graphs").mkdir()
    data = point(bundle, "weights.data", graph="graphs/model.onnx")
    (bundle / "weights.data").write_bytes(data)
    rehash(bundle, "weights.data")
    edit_manifest(bundle, lambda m: m["graphs"][0].update(onnx="graphs/model.onnx"))
    refused(bundle, "which the manifest does not list")
    (bundle / "graphs/weights.data").symlink_to(tmp_path / "secret")
    refused(bundle, "reached through a link")


def test_a_graph_that_is_no_onnx(refused, bundle):
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
        np.savez(file, frames=frames, depth=results.astype(np.float64))
    elif content == "shape":
        np.savez(file, frames=frames, depth=results[:, :-1])
    elif content == "none":
        np.savez(file, frames=frames[:0], depth=results[:0])
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
        ((-1, *HW, 3), zipfile.ZIP_DEFLATED, "its shape is"),  # a read of -1 bytes is one of all
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


@pytest.mark.parametrize("wrong", ["missing", "shape", "count", "nan", "large"])
def test_a_reference_of_several_results_holds_each_of_them(tmp_path, monkeypatch, wrong):
    root = write_plain_bundle(tmp_path / "both", task="geometry")
    opened = open_bundle(root)
    frames, results = opened.reference(opened.graph_for(HW))
    assert {name: each.shape for name, each in results.items()} == {
        "depth": (2, *HW),
        "normals": (2, *HW, 3),
    }
    normals = results.pop("normals")
    if wrong == "nan":
        normals[1, 2, 3, 0] = np.nan
    elif wrong == "large":
        monkeypatch.setattr(reference, "MAX_BYTES", results["depth"].nbytes + normals.nbytes - 1)
    elif wrong != "missing":
        normals = normals[:, :-1] if wrong == "shape" else normals[:1]
    given = {} if wrong == "missing" else {"normals": normals}
    np.savez(root / REFERENCE, frames=frames, **results, **given)
    rehash(root, REFERENCE)
    opened = open_bundle(root)
    with pytest.raises(BundleError, match=r"24x32\.npz holds .*(normals|NaN)"):
        opened.reference(opened.graph_for(HW))


def test_pickles_in_a_reference_are_not_read(bundle, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(bundle / REFERENCE, frames=np.array([Evil()], dtype=object), depth=np.zeros(1))
    rehash(bundle, REFERENCE)
    opened = open_bundle(bundle)
    with pytest.raises(BundleError):
        opened.reference(opened.graph_for(HW))
    assert not (tmp_path / "pwned").exists()
