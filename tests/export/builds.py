"""Engines of small graphs, built for real with TensorRT-RTX: what several tests of the builder share."""

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.bundle.plan_files import graph_digest
from e2e_deploy.export.engines.build import build_plan
from e2e_deploy.export.engines.tensorrt import BuildOptions, Network
from e2e_deploy.export.engines.tensorrt_job import trt_job
from e2e_deploy.nvidia.trt_api import PORTABLE
from tests import plain_bundle
from tests.small_graphs import drop_unread

PLAN = b"vtrt"
"""How every plan starts."""


def write_plain_bundle(*args, **kwargs):
    """A plain bundle whose graphs lint has nothing against."""
    return drop_unread(plain_bundle.write_plain_bundle(*args, **kwargs))


def nothing_was_written(folder, cache):
    """Neither a plan in the bundle nor an entry in the cache."""
    assert list((folder / "plans").iterdir()) == []
    assert list(cache.folder.iterdir()) == []


def graph_of(name="m.onnx"):
    return GraphEntry(
        frame_size=[16, 16],
        processing_size=[16, 16],
        onnx=name,
        reference="none",
        inputs=[],
        outputs=[],
    )


def build(
    folder, api, cache, *, target=PORTABLE, name="m.onnx", precision="fp16", gpu=None, **rest
):
    """One plan of a graph in ``folder``: (entry, bytes)."""
    options = BuildOptions(target=None if gpu else target, **rest.pop("options", {}))
    digest = graph_digest(folder, name, lambda n: sha256_of(folder / n))
    entry = build_plan(
        folder,
        graph_of(name),
        trt_job(api, target, gpu),
        precision=precision,
        digest=digest,
        options=options,
        cache=cache,
        **rest,
    )
    return entry, (folder / entry.file).read_bytes()


def plan_of(api, path, **options):
    with Network(api, path) as network:
        plan, _ = network.build(BuildOptions(**options))
        return bytes(plan), network.decomposed


def plan_for_all(api, path, targets, **options):
    """One plan that carries the code for every one of ``targets``; the package builds one for each."""

    class Several(Network):
        def _set_target(self, config, target):
            config.num_compute_capabilities = len(targets)
            for index, name in enumerate(targets):
                kind = getattr(api.module.ComputeCapability, name.upper())
                config.set_compute_capability(kind, index)

    with Several(api, path) as network:
        return bytes(network.build(BuildOptions(**options))[0])
