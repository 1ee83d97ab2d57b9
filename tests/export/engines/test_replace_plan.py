import os
from dataclasses import replace

import pytest

from e2e_deploy.bundle.bundle import open_bundle, sha256_of
from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.export.engines import build as engines
from e2e_deploy.export.engines import replace_plan as module
from e2e_deploy.export.engines.build import build_plans
from e2e_deploy.export.engines.replace_plan import replace_plan
from e2e_deploy.nvidia.cuda_driver import Gpu
from tests.export.builds import PLAN, write_plain_bundle

GPU = Gpu("NVIDIA Fake 4090", "sm89", (13, 1))
SIZES = [(24, 32), (48, 64)]


@pytest.fixture
def here(monkeypatch):
    """A machine with a GPU of compute capability 8.9."""
    for place in (engines, module):
        monkeypatch.setattr(place, "current_gpu", lambda: GPU)


@pytest.fixture
def bundle(tmp_path, cache):
    """Two graphs, each with plans for sm75 and sm89."""
    root = write_plain_bundle(tmp_path / "bundle", sizes=SIZES)
    manifest = parse_manifest((root / "manifest.json").read_text())
    built = build_plans(
        root, manifest, engine="tensorrt-rtx", targets=["sm75", "sm89"], cache=cache
    )
    write_manifest(root, replace(manifest, plans=built.entries))
    return open_bundle(root)


def of_another_version(bundle):
    """The same bundle, as if the sm89 plan of its second graph had been built by version 1.6."""
    entries = list(bundle.manifest.plans)
    old = entries[3]
    name = old.file.replace(old.version, "1.6")
    (bundle.root / old.file).rename(bundle.root / name)
    entries[3] = replace(old, file=name, version="1.6")
    write_manifest(bundle.root, replace(bundle.manifest, plans=entries))
    return open_bundle(bundle.root)


@pytest.mark.rtx
class TestRebuild:
    def test_it_takes_the_place_of_the_one_that_does_not_fit(self, bundle, cache, here):
        before = of_another_version(bundle)
        after = replace_plan(before, before.manifest.graphs[1], "tensorrt-rtx", cache=cache)
        assert after.manifest == open_bundle(bundle.root).manifest
        *kept, entry = after.manifest.plans
        assert kept == before.manifest.plans[:3]
        assert (entry.version, entry.target, entry.frame_size) == (
            kept[0].version,
            "sm89",
            [48, 64],
        )
        assert (bundle.root / entry.file).read_bytes().startswith(PLAN)
        assert sha256_of(bundle.root / entry.file) == after.manifest.files[entry.file].sha256
        on_disk = {f"plans/{p.name}" for p in (bundle.root / "plans").iterdir()}
        assert on_disk == {e.file for e in after.manifest.plans}
        assert replace(after.manifest, plans=[], files={}) == replace(
            before.manifest, plans=[], files={}
        )

    def test_one_for_a_new_gpu_is_added(self, bundle, cache, monkeypatch):
        for place in (engines, module):
            monkeypatch.setattr(place, "current_gpu", lambda: replace(GPU, target="sm120"))
        after = replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
        assert after.manifest.plans[:4] == bundle.manifest.plans
        assert after.manifest.plans[4].target == "sm120"

    def test_a_gpu_that_no_engine_can_name_gets_the_portable_one(self, bundle, cache, monkeypatch):
        for place in (engines, module):
            monkeypatch.setattr(place, "current_gpu", lambda: replace(GPU, target="sm130"))
        after = replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
        assert after.manifest.plans[4].target == "sm80+"

    def test_a_gpu_that_the_library_does_not_serve(self, bundle, cache, monkeypatch):
        monkeypatch.setattr(module, "current_gpu", lambda: replace(GPU, target="sm90"))
        with pytest.raises(UnavailableError, match=r"does not serve this GPU.*inductor"):
            replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)

    def test_a_changed_graph_is_refused(self, bundle, cache, here):
        with (bundle.root / "model_24x32.onnx").open("ab") as stream:
            stream.write(b"x")
        before = (bundle.root / "manifest.json").read_bytes()
        with pytest.raises(BundleError, match="not the file that was exported"):
            replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
        assert (bundle.root / "manifest.json").read_bytes() == before

    def test_a_full_disk_leaves_the_bundle_as_it_was(self, bundle, cache, here, full_disk):
        before = of_another_version(bundle)
        with full_disk(10_000), pytest.raises(E2EDeployError, match="could not be written"):
            replace_plan(before, before.manifest.graphs[1], "tensorrt-rtx", cache=cache)
        assert open_bundle(bundle.root).manifest == before.manifest

    def test_killed_before_the_manifest_leaves_the_bundle_as_it_was(
        self, bundle, cache, here, monkeypatch
    ):
        before = of_another_version(bundle)

        def killed(path):
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "whole_file", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_plan(before, before.manifest.graphs[1], "tensorrt-rtx", cache=cache)
        assert open_bundle(bundle.root).manifest == before.manifest

    def test_what_others_built_meanwhile_stays(self, bundle, cache, monkeypatch):
        """Two machines that share a disk, each with the bundle as it was before either of them built."""
        before = of_another_version(bundle)
        graphs = before.manifest.graphs
        for target, graph in (("sm89", graphs[1]), ("sm120", graphs[0])):
            for place in (engines, module):
                monkeypatch.setattr(place, "current_gpu", lambda t=target: replace(GPU, target=t))
            replace_plan(before, graph, "tensorrt-rtx", cache=cache)
        after = open_bundle(bundle.root).manifest
        assert [plan.target for plan in after.plans] == ["sm75", "sm89", "sm75", "sm89", "sm120"]
        assert "1.6" not in {plan.version for plan in after.plans}

    def test_another_export_in_its_place_is_left_as_it_is(self, bundle, cache, monkeypatch):
        for place in (engines, module):
            monkeypatch.setattr(place, "current_gpu", lambda: replace(GPU, target="sm120"))
        write_manifest(bundle.root, replace(bundle.manifest, created="2030-01-01T00:00:00+00:00"))
        new = (bundle.root / "manifest.json").read_bytes()
        with pytest.raises(BundleError, match="was exported again while a plan was built"):
            replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
        assert (bundle.root / "manifest.json").read_bytes() == new

    def test_the_manifest_stays_private(self, bundle, cache, here):
        mask = os.umask(0o002)
        try:
            replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
        finally:
            os.umask(mask)
        assert (bundle.root / "manifest.json").stat().st_mode & 0o777 == 0o644

    def test_a_core_graph(self, bundle, cache, here):
        graph = replace(bundle.manifest.graphs[0], kind="core")
        with pytest.raises(UsageError, match="plans take frames"):
            replace_plan(bundle, graph, "tensorrt-rtx", cache=cache)

    def test_an_int8_graph(self, bundle, cache, here):
        manifest = replace(bundle.manifest, precision="int8")
        with pytest.raises(UsageError, match=r"no plan is built from int8 graphs.*in fp16"):
            replace_plan(
                replace(bundle, manifest=manifest), manifest.graphs[0], "tensorrt-rtx", cache=cache
            )

    def test_without_a_gpu(self, bundle, cache, monkeypatch):
        monkeypatch.setattr(module, "current_gpu", lambda: None)
        with pytest.raises(UnavailableError, match="for the GPU at hand, and none is here"):
            replace_plan(bundle, bundle.manifest.graphs[0], "tensorrt-rtx", cache=cache)
