"""A published baseline on a published set: what is recorded, and that another seed is another measurement."""

import numpy as np

from e2e_deploy import evaluate_protocol
from tests.train.protocol import made_sets


def test_how_a_baseline_sampled_is_recorded(small, tmp_path):
    truth = np.full((480, 640), 2.0)
    truth[:, 320:] = 5.0
    made_sets.scannet(tmp_path / "sets", 90, truth)
    found = {}
    for seed in (7, 8):
        notes = []
        report = evaluate_protocol(
            small,
            tmp_path / "sets",
            results=tmp_path / "results",
            resolution=64,
            backend="diffusers",
            steps=2,
            spacing="leading",
            seed=seed,
            on_note=notes.append,
        )
        (result,) = report.results
        settings = {"steps": 2, "spacing": "leading", "ensemble": 1, "seed": seed, "resolution": 64}
        assert result.contender.settings == settings
        assert result.contender.backend == "diffusers"
        assert any(f"t = 501 to 1), ensemble of 1, seed {seed}, fp32" in note for note in notes)
        found[seed] = result.metrics
    assert found[7] != found[8]
    assert len(list((tmp_path / "results").iterdir())) == 2
