"""Graphs with several results, of a network small enough to be written here."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from e2e_deploy.bundle.reference import read_reference
from e2e_deploy.export.onnx.for_cuda import fit_cuda
from e2e_deploy.export.onnx.lint import lint
from e2e_deploy.export.onnx.trace import save, trace
from e2e_deploy.kinds import KINDS
from tests.export.test_subject import plan

HW = (32, 48)


class Both(nn.Module):
    """rgb to depth and normals side by side, as every model of two results gives them."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, rgb_N3HW):
        made = self.conv(rgb_N3HW)
        return torch.cat([made[:, :1].sigmoid(), nn.functional.normalize(made[:, 1:])], dim=1)


@pytest.mark.parametrize("kind", ["frame", "core"])
def test_every_result_is_an_output_of_its_own(tmp_path, kind):
    (subject,) = plan([HW], task="geometry", kind=kind)
    depth, normals = subject.entry.outputs
    assert (depth.name, normals.name) == ("depth", "normals")
    assert depth.meaning.startswith(KINDS["depth"].meaning)
    assert normals.meaning.startswith(KINDS["normals"].meaning)
    wanted = {
        "frame": ([1, *HW], [1, *HW, 3]),
        "core": ([1, 1, *HW], [1, 3, *HW]),
    }[kind]
    assert (depth.shape, normals.shape) == wanted
    body = Both().eval()
    graph = trace(
        subject.module(body),
        subject.example(),
        input_name=subject.entry.inputs[0].name,
        output_names=[spec.name for spec in subject.entry.outputs],
    )
    assert lint(graph, "onnxruntime") == []
    fit_cuda(graph)
    assert [value.name for value in graph.graph.outputs] == ["depth", "normals"]
    save(graph, tmp_path / "m.onnx")
    subject.write_reference(body, tmp_path, count=2)
    data = (tmp_path / subject.entry.reference).read_bytes()
    takes = subject.entry.shapes(KINDS["depth"])[0]
    gives = {name: subject.entry.shapes(KINDS[name])[1] for name in ("depth", "normals")}
    dtype = np.uint8 if kind == "frame" else np.float32
    inputs, references = read_reference("r", data, dtype, takes, gives)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for index, given in enumerate(inputs):
        results = session.run(["depth", "normals"], {subject.entry.inputs[0].name: given[None]})
        for result, reference in zip(results, references.values(), strict=True):
            np.testing.assert_allclose(result[0], reference[index], atol=1e-5)
            assert np.ptp(reference) > 0.1
    verdicts = subject.verify_module(body, "bf16", tmp_path)
    assert [(v.output, v.failures) for v in verdicts] == [("depth", []), ("normals", [])]
