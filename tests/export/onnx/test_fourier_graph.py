"""DepthMaster's block in a graph: plain operators, right numbers, and nothing of it in 8 bits."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.graph.precision import Fp32Island
from e2e_deploy.export.onnx.lint import lint
from e2e_deploy.export.onnx.quantise import nodes_to_quantise
from e2e_deploy.export.onnx.trace import save, trace
from e2e_deploy.model.networks.fourier import FourierBlock
from e2e_deploy.runtime.engine import load
from tests.export.random_models import randomise
from tests.family_checkpoints.depthmaster import write_depthmaster
from tests.family_checkpoints.lotus import write_lotus
from tests.family_checkpoints.sd2 import LEAN
from tests.peers import our_results


class Around(nn.Module):
    """The block between two convolutions in half precision, as in a network."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 1, 3)
        self.fftblock = FourierBlock(16)
        randomise(self, torch.Generator().manual_seed(0))
        self.half().eval()
        self.fftblock = Fp32Island(self.fftblock)

    def forward(self, rgb_N3HW):
        return self.after(self.fftblock(self.before(rgb_N3HW.half()))).float()


@pytest.mark.parametrize("size", [(12, 17), (11, 14)])
def test_the_block_in_a_graph(tmp_path, size):
    module, x = Around(), torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1))
    graph = trace(module, x, input_name="x", output_names=["y"])
    assert lint(graph, "onnxruntime") == []
    eight_bits = nodes_to_quantise(graph)
    assert any("before" in name for name in eight_bits)
    assert not any("fftblock" in name for name in eight_bits)
    # its weights stay as wide as its sums
    widths = {
        name: value.dtype.name
        for name, value in graph.graph.initializers.items()
        if "conv_f" in name or "fuse" in name
    }
    assert len(widths) >= 10
    assert set(widths.values()) == {"FLOAT"}
    save(graph, tmp_path / "m.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = module(x).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "task", "kind"),
    [(write_depthmaster, None, "sqrt-disparity"), (write_lotus, "disparity", "disparity")],
)
def test_a_bundle_in_half_precision(tmp_path, rng, write, task, kind):
    folder = write(tmp_path / "c", contrast=0.15, **LEAN)
    bundle = export_bundle(
        folder,
        tmp_path / "bundle",
        task=task,
        precision="fp16",
        frame_sizes=[(64, 96)],
        resolution=0,
        engine="onnx",
    )
    assert bundle.manifest.outputs == [kind]
    assert ("the UNet's fftblock" in bundle.manifest.fp32_ops) == (kind == "sqrt-disparity")
    frame = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with load(tmp_path / "bundle", backend="onnxruntime", device="cpu") as engine:
        found = engine(frame)
    (expected,) = our_results(folder, frame, task=task)
    assert expected.std() > 0.01
    assert np.abs(found - expected).mean() < 0.1 * expected.std()
