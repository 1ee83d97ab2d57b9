import json

import numpy as np
import pytest

from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import steady

RGB = np.zeros((48, 64, 3), np.uint8)


def test_steady_tells_what_it_did():
    step = steady()
    depth = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    frames = [SourceFrame(RGB, index, None, "a") for index in range(3)]
    step(frames[0], depth, {})
    facts = {}
    changed = (0.8 * depth + 0.1).astype(np.float32)
    got = step(frames[1], changed, facts)
    np.testing.assert_allclose(got, depth, atol=1e-3)
    told = json.loads(json.dumps(facts))
    assert told["steady"]["scale"] == pytest.approx(1.25, abs=1e-3)
    assert told["steady"]["shift"] == pytest.approx(-0.125, abs=1e-3)
    assert told["steady"]["cut"] is False
    # The model's own values come back from the sidecar.
    raw = (got - told["steady"]["shift"]) / told["steady"]["scale"]
    np.testing.assert_allclose(raw, changed, atol=1e-6)
    facts = {}
    step(frames[2], depth[:, ::-1].copy(), facts)
    assert facts["steady"]["cut"] is True
