"""Plans of core graphs: built where one is named, for programs that feed rgb themselves; the Engine takes frames."""

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import UsageError
from e2e_deploy.export.engines.build import open_shapes, plan_jobs
from tests.export.test_subject import plan


def test_auto_builds_none_and_says_why():
    jobs, (note,) = plan_jobs("auto", kind="core")
    assert jobs == []
    assert "is for programs of your own: name it to have it" in note
    assert plan_jobs("onnx", kind="core") == ([], [])


def test_open_sides_are_bounded_and_best_at_the_exported_size():
    (subject, _) = plan([(300, 200)], kind="core", dynamic=True, batch=2)
    assert open_shapes(subject.entry) == {
        "rgb": ((2, 3, 128, 128), (2, 3, 320, 256), (2, 3, 2048, 2048))
    }
    (fixed,) = plan([(300, 200)], kind="core")
    assert open_shapes(fixed.entry) == {}


@pytest.mark.slow
@pytest.mark.rtx
def test_a_named_plan_of_a_core_graph(small, tmp_path, monkeypatch):
    """One with open sides builds too (it takes minutes): test_tiny_plans.py has the builder's part of that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = e2e.export_bundle(
        small,
        tmp_path / "b",
        frame_sizes=[(32, 48)],
        resolution=0,
        batch=2,
        graph="core",
        engine="tensorrt-rtx",
        targets=["sm89"],
        level=0,
    )
    (entry,) = bundle.manifest.plans
    assert (entry.frame_size, entry.target) == ([32, 48], "sm89")
    assert entry.file in bundle.manifest.files
    with pytest.raises(UsageError, match="an engine takes frames"):
        e2e.load(bundle)
