"""Packages of AOTInductor in plain bundles: doubles, which say of themselves what real ones do, and the backends."""

import io
import json
import zipfile

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import PlanEntry, parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.bundle.plan_files import graph_digest, package_metadata, plan_name
from e2e_deploy.runtime.backends.inductor.on_gpu import InductorOnGpu
from tests.fake_cuda import GPU, FakeDriver
from tests.fake_torch import FakeTorch


def zipped(*metadata):
    """A package without code."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for number, facts in enumerate(metadata):
            name = f"frame/data/aotinductor/model/{number}.wrapper_metadata.json"
            archive.writestr(name, json.dumps(facts))
    return memory.getvalue()


def says(root, graph, manifest, device="cuda", **more):
    """What a package of ``graph`` says of itself."""
    digest = graph_digest(root, graph.onnx, lambda name: manifest.files[name].sha256)
    return package_metadata(graph, digest) | {"AOTI_DEVICE_KEY": device} | more


def list_package(root, data, graph, **facts):
    """Put a package into the bundle and its manifest; its path."""
    known = {"version": FakeTorch.version, "target": "sm89", "gpu": GPU.name, "cuda": 13}
    facts = known | facts
    manifest = parse_manifest((root / "manifest.json").read_text())
    name = plan_name(
        graph.frame_hw, manifest.precision, "inductor", facts["version"], facts["target"]
    )
    (root / "plans").mkdir(exist_ok=True)
    (root / name).write_bytes(data)
    manifest.plans.append(
        PlanEntry(
            file=name,
            backend="inductor",
            frame_size=graph.frame_size,
            precision=manifest.precision,
            options={},
            seconds=1.0,
            layers={},
            **facts,
        )
    )
    write_manifest(root, manifest)
    return root / name


def add_fake_package(root, *, metadata=None, **facts):
    """List a double for the first graph; ``metadata`` changes what it says of itself."""
    manifest = parse_manifest((root / "manifest.json").read_text())
    graph = manifest.graphs[0]
    return list_package(
        root, zipped(says(root, graph, manifest, **(metadata or {}))), graph, **facts
    )


def load_on_gpu(root, driver=None, **behaviour):
    """The backend on the double's GPU."""
    driver = driver or FakeDriver()
    bundle = open_bundle(root)
    return InductorOnGpu(
        bundle, bundle.manifest.graphs[0], FakeTorch(driver, **behaviour), driver, 0
    )
