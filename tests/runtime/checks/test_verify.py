import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, CheckpointError, UsageError
from e2e_deploy.limits import LIMITS, Parity
from e2e_deploy.names import BACKENDS
from e2e_deploy.runtime.checks.verify import compare, worst
from tests import fake_gpu
from tests.plain_bundle import HW, rehash, write_plain_bundle
from tests.runtime.fake_plans import add_plan


def change_reference(root, change, output=None):
    """Store other reference results of an output, if one is not named of all of them, hashes and all."""
    name = f"reference/{HW[0]}x{HW[1]}.npz"
    with np.load(root / name) as stored:
        arrays = dict(stored)
    for each in (name for name in arrays if name != "frames" and output in (None, name)):
        change(arrays[each])
    np.savez(root / name, **arrays)
    rehash(root, name)


def test_a_whole_bundle_passes_for_every_size(tmp_path):
    bundle = open_bundle(write_plain_bundle(tmp_path / "b", sizes=[HW, (20, 20)]))
    verdicts = compare(bundle, "onnxruntime")
    assert [v.frame_hw for v in verdicts] == [HW, (20, 20)]
    for verdict in verdicts:
        assert verdict.failures == []
        assert (verdict.backend, verdict.precision) == ("onnxruntime", "fp32")
        assert verdict.limit == LIMITS["onnxruntime", "fp32"]
        assert verdict.parity.max_abs < 1e-6


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize("frame", [0, 1])
def test_one_frame_of_several_is_enough_to_fail(tmp_path, task, frame):
    root = write_plain_bundle(tmp_path / "b", task=task)
    change_reference(root, lambda results: results[frame].__imul__(1.001))
    (verdict,) = compare(open_bundle(root), "onnxruntime")
    assert verdict.parity.relative == pytest.approx(1e-3, rel=0.01)
    assert "relative error" in verdict.failures[0]


def test_a_reference_that_is_not_finite_is_refused(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    change_reference(root, lambda results: results[0].__setitem__((0, 0), np.nan))
    with pytest.raises(BundleError, match="NaN or infinite"):
        compare(open_bundle(root), "onnxruntime")


def test_the_worst_of_several_frames():
    def parity(**changes):
        values = {
            "max_abs": 0.0,
            "relative": 0.0,
            "abs_rel": 0.0,
            "share_within_2pct": 1.0,
            "mean_angle_deg": None,
            "psnr_db": 90.0,
            "finite": True,
        }
        return Parity(**values | changes)

    got = worst(
        [
            parity(max_abs=0.5, share_within_2pct=0.7),
            parity(relative=0.1, abs_rel=0.2, psnr_db=30.0),
            parity(finite=False, max_abs=float("nan"), abs_rel=None),
        ]
    )
    assert (got.relative, got.abs_rel, got.share_within_2pct) == (0.1, 0.2, 0.7)
    assert (got.psnr_db, got.mean_angle_deg, got.finite) == (30.0, None, False)
    assert np.isnan(got.max_abs)


def test_every_backend_here_is_tried_and_what_was_not_compared_is_said(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    found = e2e.verify_bundle(root, device="cpu")
    compared = [verdict.backend for verdict in found.verdicts]
    assert compared[0] == "onnxruntime"
    assert found.failures == []
    reasons = {left_out.backend: left_out.reason for left_out in found.not_compared}
    assert {*compared, *reasons} == set(BACKENDS)
    assert {"torch", "tensorrt", "tensorrt-rtx", "inductor"} <= reasons.keys()
    assert "which is no folder here" in reasons["torch"]
    assert reasons["torch"].endswith("name what it was exported from with `checkpoint`")
    change_reference(root, lambda results: results.__imul__(1.001))
    failures = e2e.verify_bundle(root, device="cpu").failures
    assert len(failures) == len(compared)
    assert failures[0].startswith("onnxruntime fp32: relative error")


def test_a_named_backend_or_a_checkpoint_that_nothing_opens(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="`checkpoint` is what PyTorch opens, and `backend="):
        e2e.verify_bundle(root, "onnxruntime", checkpoint="somewhere")
    with pytest.raises(UsageError, match="unknown backend 'abacus'; the backends are auto, onnx"):
        e2e.verify_bundle(root, "abacus")
    with pytest.raises(CheckpointError, match="which is no folder here"):
        e2e.verify_bundle(root, "torch")


def test_a_damaged_plan_is_an_error_and_no_backend_that_is_left_out(tmp_path, monkeypatch):
    root = write_plain_bundle(tmp_path / "b")
    plan = add_plan(root)
    fake_gpu.install(monkeypatch, tmp_path / "cache")
    assert "tensorrt" in {verdict.backend for verdict in e2e.verify_bundle(root).verdicts}
    plan.write_bytes(plan.read_bytes()[:-20])
    rehash(root, plan.relative_to(root).as_posix())
    with pytest.raises(BundleError, match="damaged"):
        e2e.verify_bundle(root)


def test_a_checkpoint_that_is_named_is_compared_with_or_an_error(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    with pytest.raises(CheckpointError, match="nowhere is not a checkpoint"):
        e2e.verify_bundle(root, device="cpu", checkpoint="nowhere")
