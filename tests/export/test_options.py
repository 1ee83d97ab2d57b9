"""What an export is asked for: wrong or without effect is said before anything is loaded."""

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import UsageError
from e2e_deploy.model.checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"engine": "trt"}, "unknown engine 'trt'; supported: auto, onnx"),
        ({"graph": "half"}, "unknown graph 'half'"),
        (
            {"engine": "onnx", "targets": ["sm89"]},
            '`targets` only goes with .* `engine="onnx"` has none',
        ),
        ({"engine": "tensorrt", "targets": ["sm89"]}, "builds for the GPU at hand"),
        ({"level": 6}, "`level` is 6; builders take 0 to 5"),
        ({"level": 5, "engine": "onnx"}, "`level` and `workspace_bytes` are a plan's"),
        (
            {"workspace_bytes": 2**28, "engine": "onnx"},
            "`level` and `workspace_bytes` are a plan's",
        ),
        ({"batch": 0}, "`batch` is 0; a graph takes 1 to 64 pictures"),
        ({"batch": 65}, "`batch` is 65"),
        ({"dynamic": True}, '`dynamic` needs `graph="core"`'),
        ({"accept_accuracy": True}, "`accept_accuracy` is for int8; fp32 has no exception"),
    ],
)
def test_wrong_or_without_effect(tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        e2e.export_bundle("no such checkpoint", tmp_path / "b", **options)


def test_an_opened_checkpoint_is_read_already(small, tmp_path):
    for option in ({"task": "depth"}, {"family": "marigold"}):
        with pytest.raises(UsageError, match="is decided already"):
            e2e.export_bundle(open_checkpoint(small), tmp_path / "b", **option)
