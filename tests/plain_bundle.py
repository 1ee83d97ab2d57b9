"""Bundles whose graph anyone can compute by hand: depth is the mean of R, G and B over 255. Written in a moment.

So is every other result of one channel; vectors are the colour around grey, and pictures the frame itself. Of a task
with several results, such as geometry, a graph gives all of them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import CheckpointEntry, GraphEntry, Manifest, TensorSpec
from e2e_deploy.bundle.new_bundle import new_bundle, write_manifest
from e2e_deploy.kinds import KINDS
from e2e_deploy.model.families import TASKS

HW = (24, 32)
NOTE = "untrained weights"


def plain_depth(frame):
    """What the graph computes, in float64."""
    return frame.astype(np.float64).mean(axis=-1) / 255


def plain_normals(frame):
    """The colour around grey as a unit vector, in float64."""
    vector = frame.astype(np.float64) - 127.5
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _plain(kind):
    if kind.form == "vectors":
        return plain_normals
    return plain_depth if kind.channels == 1 else (lambda frame: frame.astype(np.float64) / 255)


PLAIN = {kind.output: _plain(kind) for kind in KINDS.values()}


def plain_results(frame, task="depth"):
    """What the graph of a task computes, by the names of its outputs, in float64."""
    return {output: PLAIN[output](frame) for output in (KINDS[name].output for name in TASKS[task])}


def plain_model(hw, task="depth", batch=1):
    """The ONNX graph; its one weight tells the tasks' constants."""
    height, width = hw
    constants = {"scale": [255.0], "axes": [3], "grey": [127.5], "last": [3]}
    tensors = [
        helper.make_tensor(k, TensorProto.INT64 if k in ("axes", "last") else 1, [1], v)
        for k, v in constants.items()
    ]
    nodes = [helper.make_node("Cast", ["frame"], ["rgb"], to=TensorProto.FLOAT)]
    kinds = [KINDS[name] for name in TASKS[task]]
    for kind in kinds:
        if kind.form == "vectors":
            nodes += [
                helper.make_node("Sub", ["rgb", "grey"], ["vector"]),
                helper.make_node("ReduceL2", ["vector", "last"], ["length"], keepdims=1),
                helper.make_node("Div", ["vector", "length"], [kind.output]),
            ]
        elif kind.channels == 1:
            nodes += [
                helper.make_node("ReduceMean", ["rgb", "axes"], ["mean"], keepdims=0),
                helper.make_node("Div", ["mean", "scale"], [kind.output]),
            ]
        else:
            nodes.append(helper.make_node("Div", ["rgb", "scale"], [kind.output]))
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, height, width, 3])],
        [
            helper.make_tensor_value_info(
                kind.output, TensorProto.FLOAT, [batch, *kind.result_shape(height, width)]
            )
            for kind in kinds
        ],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_plain_bundle(root: Path, sizes=(HW,), task="depth", note=NOTE, batch=1) -> Path:
    """A whole bundle with one graph a size."""
    rng = np.random.default_rng(0)
    graphs = []
    with new_bundle(root) as folder:
        (folder / "reference").mkdir()
        for hw in sizes:
            height, width = hw
            onnx.save(plain_model(hw, task, batch), folder / f"model_{height}x{width}.onnx")
            frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
            results = {k: v.astype(np.float32) for k, v in plain_results(frames, task).items()}
            np.savez(folder / f"reference/{height}x{width}.npz", frames=frames, **results)
            graphs.append(
                GraphEntry(
                    frame_size=[height, width],
                    processing_size=[height, width],
                    onnx=f"model_{height}x{width}.onnx",
                    reference=f"reference/{height}x{width}.npz",
                    inputs=[
                        TensorSpec(
                            name="frame",
                            dtype="uint8",
                            shape=[batch, height, width, 3],
                            meaning="RGB",
                        )
                    ],
                    outputs=[
                        TensorSpec(
                            name=name,
                            dtype="float32",
                            shape=[batch, *each.shape[1:]],
                            meaning=name,
                        )
                        for name, each in results.items()
                    ],
                )
            )
        manifest = Manifest(
            outputs=list(TASKS[task]),
            settings={},
            task=task,
            family="marigold",
            checkpoint=CheckpointEntry(id="plain", sha256="0" * 64, note=note),
            resolution=0,
            pad=0,
            precision="fp32",
            fp32_ops=[],
            opset=20,
            graphs=graphs,
            versions={"e2e-deploy": "0"},
            created="2026-01-01T00:00:00+00:00",
        )
        write_manifest(folder, manifest)
    return root


def edit_manifest(root: Path, change) -> None:
    """Apply ``change`` to the parsed manifest, in place."""
    path = root / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rehash(root: Path, name: str) -> None:
    """List the file ``name`` with the size and hash it has now, as a forger would."""
    file = root / name

    def listed(value):
        value["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}

    edit_manifest(root, listed)


def add_variant(root: Path, precision: str = "fp16") -> str:
    """List a variant of the plain graph for ONNX Runtime on CUDA, the same graph under another name; that name."""
    name = "model_24x32-onnxruntime-cuda.onnx"
    shutil.copy(root / "model_24x32.onnx", root / name)
    rehash(root, name)
    entry = {"target": "onnxruntime-cuda", "onnx": name, "operators": {"GroupNorm": 0}}

    def change(manifest):
        manifest["graphs"][0]["variants"] = [entry]
        manifest["precision"] = precision

    edit_manifest(root, change)
    return name
