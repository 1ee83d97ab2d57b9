"""Engines of the recording double in plain bundles, and the backend that runs them."""

import json

import numpy as np

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import PlanEntry, parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.bundle.plan_files import graph_digest, plan_name
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend
from tests.fake_cuda import GPU, FakeDriver, fake_tensorrt
from tests.plain_bundle import HW

VERSION = "11.4.0"


def write_plan(
    root,
    graph,
    digest,
    *,
    gpu=GPU.name,
    target="sm89",
    version=VERSION,
    cuda=13,
    backend="tensorrt",
):
    """A plan of the double for one graph, and its entry; the plan itself says what the entry says."""
    name = plan_name(graph.frame_hw, "fp32", backend, version, target)
    facts = {
        "version": version,
        "target": target,
        "name": digest,
        "tensors": [
            [spec.name, kind, spec.dtype, spec.shape]
            for kind, specs in (("input", graph.inputs), ("output", graph.outputs))
            for spec in specs
        ],
    }
    (root / "plans").mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(facts))
    return PlanEntry(
        file=name,
        backend=backend,
        version=version,
        target=target,
        gpu=gpu,
        cuda=cuda,
        frame_size=graph.frame_size,
        precision="fp32",
        options={},
        seconds=1.0,
        layers={},
    )


def add_plan(root, **facts):
    """List a plan of the double for every graph; returns the last one's path."""
    manifest = parse_manifest((root / "manifest.json").read_text())
    for graph in manifest.graphs:
        digest = graph_digest(root, graph.onnx, lambda n: manifest.files[n].sha256)
        manifest.plans.append(write_plan(root, graph, digest, **facts))
    write_manifest(root, manifest)
    return root / manifest.plans[-1].file


def load(root, driver=None, *, version=VERSION, library="tensorrt", device="auto", **behaviour):
    driver = driver or FakeDriver()
    api = TrtApi(library, fake_tensorrt(version, driver, **behaviour))
    bundle = open_bundle(root)
    return TrtBackend(
        bundle, bundle.manifest.graphs[0], device, library=library, api=api, driver=driver
    )


def frames(rng, count=3):
    return rng.integers(0, 256, (count, *HW, 3), dtype=np.uint8)
