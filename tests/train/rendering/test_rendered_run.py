"""Sixty steps on rendered scenes: what the whole of train/ is for, at the smallest size."""

import pytest
import torch

from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.accuracy import measure_accuracy
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.rendering.render import render_data
from e2e_deploy.train.training import train_model
from tests.train.small_runs import run_table

pytest.importorskip("mitsuba")


def test_sixty_steps_lower_the_held_out_error(tmp_path):
    render_data(tmp_path / "data", train=12, val=4, test=0, size=(32, 40), samples=4)
    table = run_table(
        tmp_path,
        data=[{"root": str(tmp_path / "data"), "size": [32, 40]}],
        optim={
            "steps": 60,
            "lr": 4e-3,
            "decay_steps": 60,
            "micro_batch": 4,
            "effective_batch": 4,
        },
        run={"checkpoint_every": 200, "log_every": 100},
    )
    held_out = FolderDataset(tmp_path / "data", "val")

    def error(folder):
        model = load_model(open_checkpoint(folder))

        def predict(frame):
            with torch.no_grad():
                rgb_13HW = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
                return model(rgb_13HW)[0, 0].numpy()

        return measure_accuracy(predict, held_out, kind="depth").metrics.abs_rel

    before = error(tmp_path / "start")
    trained = train_model(parse_config(table)).model
    after = error(trained)
    assert after < 0.9 * before
