"""Short runs with other objectives than E2E-FT's: they learn, go on where they stopped, and leave what others run."""

import json

import pytest
import torch

from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.training import train_model
from tests.train.small_runs import equal, logged, small_config, weights

DIFFUSION = {"model": {"train": ["unet"]}, "diffusion": {"measured_steps": 2}}


def with_eval(root, **eval_):
    return {"eval": {"root": str(root / "data"), "split": "train", "size": [32, 40], **eval_}}


def test_a_diffusion_run_goes_on_bitwise_and_leaves_a_marigold(tmp_path):
    import diffusers

    whole = train_model(
        small_config(tmp_path, **DIFFUSION, **with_eval(tmp_path, every=6, num_images=2))
    )
    assert whole.evaluation.values()["abs_rel"] >= 0
    first = logged(tmp_path / "out")
    kept = weights(whole.model)
    part = train_model(
        small_config(tmp_path, **DIFFUSION, optim={"steps": 2}, run={"out": str(tmp_path / "cut")})
    )
    assert part.progress.step == 2
    again = train_model(small_config(tmp_path, **DIFFUSION, run={"out": str(tmp_path / "cut")}))
    assert equal(weights(again.model), kept)
    assert [entry["loss"] for entry in logged(tmp_path / "cut")] == [e["loss"] for e in first]
    index = json.loads((again.model / "model_index.json").read_text())
    assert index["default_denoising_steps"] == 2
    scheduler = diffusers.DDIMScheduler.from_pretrained(again.model / "scheduler")
    assert scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.timestep_spacing == "trailing"
    one_step = load_model(open_checkpoint(again.model))
    assert (one_step.timestep, one_step.x0_from_output) == (999, pytest.approx(-1, abs=1e-6))
    with torch.no_grad():
        assert one_step(torch.zeros(1, 3, 32, 40)).isfinite().all()


def test_diffusion_learns(tmp_path):
    optim = {"steps": 60, "lr": 4e-3, "decay_steps": 60, "micro_batch": 4, "effective_batch": 4}
    train_model(small_config(tmp_path, **DIFFUSION, optim=optim, run={"checkpoint_every": 100}))
    losses = [entry["loss"] for entry in logged(tmp_path / "out")]
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])


def test_genpercepts_terms_learn_and_are_told(tmp_path):
    terms = {"mse": 1.0, "ssi": 0.5, "gradient": 2.0}
    optim = {"steps": 40, "lr": 3e-3, "decay_steps": 60, "micro_batch": 4, "effective_batch": 4}
    train_model(
        small_config(tmp_path, loss={"terms": terms}, optim=optim, run={"checkpoint_every": 100})
    )
    steps = logged(tmp_path / "out")
    for name in terms:
        assert steps[-1]["terms"][name] >= 0
    loss = sum(weight * steps[3]["terms"][name] for name, weight in terms.items())
    assert steps[3]["loss"] == pytest.approx(loss)
    first, last = (sum(s["loss"] for s in part) for part in (steps[:8], steps[-8:]))
    assert last < 0.7 * first
