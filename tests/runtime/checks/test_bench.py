import sys

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import CheckpointError
from e2e_deploy.limits import measure_parity
from e2e_deploy.runtime.checks import against
from e2e_deploy.runtime.checks.turns import Gain
from e2e_deploy.runtime.timing import Latency
from tests import fake_gpu
from tests.plain_bundle import HW, write_plain_bundle
from tests.runtime.fake_plans import add_plan


def test_a_report_says_what_was_measured_with_what(tmp_path):
    rows = []
    root = write_plain_bundle(tmp_path / "bundle", sizes=[HW, (48, 64)])
    report = e2e.bench(root, frames=3, against="onnxruntime", on_row=rows.append)
    assert report.rows == rows
    assert [row.frame_size for row in rows] == [HW, (48, 64)]
    for row in rows:
        assert (row.backend, row.precision, row.batch) == ("onnxruntime", "fp32", 1)
        assert row.latency.count == row.against.ours.count == row.against.theirs.count == 3
        assert row.loop is None
    assert set(report.files) == {"model_24x32.onnx", "model_48x64.onnx"}
    assert report.installed["numpy"] == np.__version__


def test_the_loop(tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    (row,) = e2e.bench(root, frames=3, loop=True, rates=[50], seconds=0.1).rows
    assert [rate.rate_hz for rate in row.loop.rates] == [50]


def test_a_batch_counts_its_frames(tmp_path):
    root = write_plain_bundle(tmp_path / "bundle", batch=2)
    (row,) = e2e.bench(root, frames=3).rows
    assert row.per_second == pytest.approx(2 * row.latency.per_second)
    with pytest.raises(e2e.UsageError, match="measured as a live source, so its frames go one by"):
        e2e.bench(root, loop=True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rates": [30.0]}, "`rates` and `seconds` need `loop`"),
        ({"seconds": 1.0}, "`rates` and `seconds` need `loop`"),
        ({"frames": 0}, "`frames` must be 1 or more"),
        ({"checkpoint": "x"}, "`checkpoint` is what PyTorch opens"),
        ({"against": "tpu"}, "unknown backend 'tpu'"),
        ({"against": "diffusers", "device": "npu"}, "diffusers does not reach npu"),
        ({"loop": True, "rates": [0.0]}, "cannot be measured"),
    ],
)
def test_what_is_refused(tmp_path, asked, said):
    with pytest.raises(e2e.UsageError, match=said):
        e2e.bench(write_plain_bundle(tmp_path / "bundle"), **({"frames": 2} | asked))


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_against_diffusers(normals_bundle, no_compiler):
    (row,) = e2e.bench(normals_bundle, frames=2, against="diffusers").rows
    found = row.diffusers
    assert row.against is None
    assert (found.eager.backend, found.eager.precision) == ("diffusers", "fp32")
    assert found.eager.ours.count == found.eager.theirs.count == 2
    assert found.processing_size == (48, 64)
    assert found.parity.mean_angle_deg < 0.1
    assert found.compiled is None
    assert "no-such-compiler is not here" in found.not_compiled
    assert " diffusers" in found.sentence


@pytest.mark.parametrize(
    ("broken", "why"),
    [(RuntimeError("\n"), "RuntimeError"), (KeyError("x"), "'x'"), (RuntimeError("a\nb"), "a")],
)
def test_a_compilation_that_fails_is_said_and_the_eager_pipeline_is_timed(
    normals_bundle, monkeypatch, broken, why
):
    def fails(self):
        raise broken

    monkeypatch.setattr(against, "require_compilers", lambda *, for_gpu: None)
    monkeypatch.setattr(against.DiffusersPeer, "compiled", fails)
    (row,) = e2e.bench(normals_bundle, frames=1, against="diffusers").rows
    assert row.diffusers.compiled is None
    assert row.diffusers.not_compiled.startswith(f"torch.compile fails: {why}")
    assert "\n" not in row.diffusers.not_compiled


def test_without_the_checkpoint_or_diffusers_nothing_is_timed(tmp_path, monkeypatch):
    root = write_plain_bundle(tmp_path / "bundle")
    rows = []
    with pytest.raises(CheckpointError, match="no folder here"):
        e2e.bench(root, against="diffusers", on_row=rows.append)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(e2e.UnavailableError, match="'diffusers' is not installed"):
        e2e.bench(root, against="diffusers", on_row=rows.append)
    assert rows == []


def latency(p50_ms):
    return Latency(9, p50_ms, p50_ms, p50_ms, p50_ms, p50_ms, 0.0)


def compared(ours_ms, theirs_ms, low, high, *, precision="fp16", compiled_ms=None, ours="fp16"):
    def row(name, ms):
        found = Gain(ms / ours_ms, low, high)
        args = ("NVIDIA H200", precision, latency(ours_ms), latency(ms), found)
        return against.Against(name, *args)

    return against.AgainstDiffusers(
        precision=ours,
        processing_size=(576, 768),
        eager=row("diffusers", theirs_ms),
        compiled=None if compiled_ms is None else row("diffusers compiled", compiled_ms),
        not_compiled="",
        compile_s=1.0,
        parity=measure_parity("depth", np.eye(9, dtype="f4"), np.eye(9, dtype="f4")),
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            compared(34.9, 94.3, 2.6, 2.8, compiled_ms=48.1),
            "2.7x as fast as diffusers (94 ms eager, 48 ms compiled, fp16), NVIDIA H200",
        ),
        (
            compared(200.0, 500.0, 2.4, 2.6, precision="fp32", ours="int8"),
            "2.5x as fast as diffusers (500 ms eager, fp32, ours int8), NVIDIA H200",
        ),
        (
            compared(819.0, 94.3, 0.11, 0.12),
            "0.12x as fast as diffusers (94 ms eager, fp16), NVIDIA H200",
        ),
        (
            compared(9.0, 9.3, 0.9, 1.1),
            "as fast as diffusers within the noise, 0.90x to 1.10x (9.3 ms eager, fp16), NVIDIA H200",
        ),
    ],
)
def test_the_sentence(found, sentence):
    assert found.sentence == sentence


def test_what_the_gpu_computed_stands_beside_the_whole(tmp_path, monkeypatch):
    root = write_plain_bundle(tmp_path / "bundle")
    add_plan(root)
    driver = fake_gpu.install(monkeypatch, tmp_path / "cache")
    (row,) = e2e.bench(root, frames=3, backend="tensorrt").rows
    assert row.device_latency.count == row.latency.count == 3
    assert driver.live == {}
    (row,) = e2e.bench(root, frames=3, backend="onnxruntime", device="cpu").rows
    assert row.device_latency is None
