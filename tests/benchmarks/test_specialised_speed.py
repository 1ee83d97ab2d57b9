"""Every graph that is compared can be made, and all compute the same."""

import numpy as np
import pytest

from benchmarks.speed.specialised_speed import GRAPHS, session, write_graph
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.model.checkpoint import open_checkpoint


@pytest.mark.slow
def test_every_graph_is_made_and_computes_the_same(small, tmp_path):
    frame_hw, results = (32, 48), {}
    for name, how in GRAPHS.items():
        path = tmp_path / f"{name}.onnx"
        assert write_graph(open_checkpoint(small), path, frame_hw, 0, how=how) == frame_hw
        results[name] = session(path).run(None, {"frame": reference_frames(frame_hw, 1)})[0]
    assert len(results) == 3
    for result in results.values():
        assert np.abs(result - results["plain"]).max() < 1e-5
