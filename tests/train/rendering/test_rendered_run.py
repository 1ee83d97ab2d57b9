"""Sixty steps on rendered scenes, of each objective: what the whole of train/ is for, at the smallest size."""

import pytest
import torch

from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.accuracy import measure_accuracy
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.data.batches import collate
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.rendering.render import render_data
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.objective import Denoised
from e2e_deploy.train.training import train_model
from tests.train.small_runs import run_table

pytest.importorskip("mitsuba")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered") / "data"
    render_data(root, train=12, val=4, test=0, size=(32, 40), samples=4)
    return root


def table_of(root, data, **sections):
    optim = {
        "steps": 60,
        "lr": 4e-3,
        "decay_steps": 60,
        "micro_batch": 4,
        "effective_batch": 4,
    }
    return run_table(
        root,
        data=[{"root": str(data), "size": [32, 40]}],
        optim=optim,
        run={"checkpoint_every": 200, "log_every": 1},
        **sections,
    )


E2E_FT = {}
GENPERCEPT = {"loss": {"terms": {"mse": 1.0, "ssi": 0.5, "gradient": 2.0}}}


@pytest.mark.parametrize("sections", [E2E_FT, GENPERCEPT], ids=["e2e-ft", "genpercept"])
def test_sixty_steps_lower_the_held_out_error(tmp_path, data, sections):
    table = table_of(tmp_path, data, **sections)
    held_out = FolderDataset(data, "val")

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


def test_latents_of_rendered_scenes_are_denoised_better(tmp_path, data):
    table = table_of(tmp_path, data, model={"train": ["unet"]}, diffusion={})
    config = parse_config(table)
    held_out = FolderDataset(data, "val", task="depth")
    batch = collate([held_out.read(i) for i in range(4)])

    def error(folder):
        """Of the same noisy latents, whatever the model."""
        checkpoint = open_checkpoint(folder)
        forward = TrainingForward(
            load_model(checkpoint), train=["unet"], gradient_checkpointing=False
        )
        objective = Denoised(forward, config, open_checkpoint(tmp_path / "start").scheduler)
        with torch.no_grad():
            results = [
                objective.results(batch["rgb"], [batch], range(4 * n, 4 * n + 4))[0]
                for n in range(8)
            ]
        return sum(result.loss.item() for result in results)

    before = error(tmp_path / "start")
    after = error(train_model(config).model)
    assert after < 0.9 * before
