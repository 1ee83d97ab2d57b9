import numpy as np
import pytest

import e2e_deploy as e2e
from tests.plain_bundle import HW, write_plain_bundle


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
        ({"loop": True, "rates": [0.0]}, "cannot be measured"),
    ],
)
def test_what_is_refused(tmp_path, asked, said):
    with pytest.raises(e2e.UsageError, match=said):
        e2e.bench(write_plain_bundle(tmp_path / "bundle"), **({"frames": 2} | asked))
