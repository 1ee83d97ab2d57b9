"""Makes the ready bundle of the package, e2e_deploy/assets/bundle-depth: e2e-tiny depth for frames of 480x640.

    python -m benchmarks.accuracy.ready_bundle

It is what ``e2e-deploy export`` writes, with each weight that 16 bits hold exactly stored in 16 bits and widened by a
Cast in the graph: 12 MB for 22, the same numbers, still computed in fp32. It is verified as it is stored.
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.new_bundle import new_bundle, write_manifest
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.checks.verify import compare

FRAME_HW = (480, 640)
NUM_REFERENCES = 1
MIN_BYTES = 1024
"""Smaller weights stay as they are: a node costs more than it saves."""


def narrow(model: ir.Model) -> None:
    """Store each float32 initializer that float16 holds exactly in float16, and widen it where it is read."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        wide = value.const_value
        if wide is None or wide.dtype != ir.DataType.FLOAT or wide.nbytes < MIN_BYTES:
            continue
        array = wide.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.tensor(half, name=f"{name}.fp16")
        source = ir.Value(
            name=stored.name, type=ir.TensorType(ir.DataType.FLOAT16), const_value=stored
        )
        source.shape = value.shape
        widen = ir.node("Cast", [source], {"to": ir.DataType.FLOAT}, name=f"weights/{name}")
        result = widen.outputs[0]
        result.name, result.type, result.shape = f"{name}.fp32", value.type, value.shape
        for node, index in tuple(value.uses()):
            node.replace_input_with(index, result)
        del graph.initializers[name]
        graph.initializers[source.name or ""] = source
        graph.insert_before(graph[0], [widen])


def write_ready(exported: Bundle, out: Path) -> Bundle:
    """The bundle ``exported`` at ``out``, its graph narrowed, verified again."""
    manifest = exported.manifest
    (graph,) = manifest.graphs
    model = ir.load(exported.file(graph.onnx))
    narrow(model)
    frames, results = exported.reference(graph)
    with new_bundle(out) as folder:
        ir.save(model, folder / graph.onnx)
        (folder / graph.reference).parent.mkdir()
        np.savez_compressed(
            folder / graph.reference,
            frames=frames[:NUM_REFERENCES],
            **{name: each[:NUM_REFERENCES] for name, each in results.items()},  # type: ignore[arg-type]
        )
        write_manifest(folder, manifest)
        (verdict,) = compare(open_bundle(folder), "onnxruntime", "cpu")
        assert not verdict.failures, verdict.failures
        (entry,) = manifest.verification
        verified = replace(entry, parity=asdict(verdict.parity), passed=True)
        write_manifest(folder, replace(manifest, verification=[verified]))
    return open_bundle(out)


def main() -> None:
    """Export, narrow, verify, replace the packaged one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=READY_BUNDLE)
    out = parser.parse_args().out
    folder = Path(tempfile.mkdtemp())
    try:
        exported = export_bundle(
            out=folder / "depth",
            frame_sizes=[FRAME_HW],
            engine="onnx",
            stages=Stages(),
        )
        ready = write_ready(exported, out)
    finally:
        shutil.rmtree(folder)
    (entry,) = ready.manifest.verification
    size = sum(file.bytes for file in ready.manifest.files.values())
    print(f"{ready.root}: {size / 1e6:.1f} MB, relative error {entry.parity['relative']:.1e}")


if __name__ == "__main__":
    main()
