"""Short runs with other objectives than E2E-FT's: they learn, go on where they stopped, and leave what others run."""

import json

import pytest
import torch
from safetensors.torch import save_file

from e2e_deploy.errors import UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.networks.head_model import HeadModel
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import fit
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.training import train_model
from tests.family_checkpoints.geowizard import write_geowizard
from tests.train.fixtures import write_folder, write_pictures
from tests.train.small_runs import equal, logged, small_config, weights, write_start

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


def test_genpercepts_terms_learn_and_are_told(tmp_path):
    terms = {"mse": 1.0, "ssi": 0.5, "gradient": 2.0}
    optim = {"steps": 24, "lr": 4e-3, "decay_steps": 60, "micro_batch": 4, "effective_batch": 4}
    train_model(
        small_config(tmp_path, loss={"terms": terms}, optim=optim, run={"checkpoint_every": 100})
    )
    steps = logged(tmp_path / "out")
    for name in terms:
        assert steps[-1]["terms"][name] >= 0
    loss = sum(weight * steps[3]["terms"][name] for name, weight in terms.items())
    assert steps[3]["loss"] == pytest.approx(loss)
    first, last = (sum(s["loss"] for s in part) for part in (steps[:6], steps[-6:]))
    assert last < 0.7 * first


GENPERCEPT = {"family": "genpercept", "noise": "none"}
SHORT = {"steps": 28, "lr": 3e-3, "decay_steps": 60, "micro_batch": 4, "effective_batch": 4}


def genpercept_run(root, task, data, **model):
    """A few steps from four channels that tell nothing."""
    write_start(root / "start", in_channels=4)
    (root / "start" / "e2e_deploy.json").unlink()
    (root / "start" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    table = {
        "task": task,
        "data": [{"root": str(data), "size": [32, 32]}],
        "model": {"train": ["unet", "vae"]} | GENPERCEPT | model,
        "optim": SHORT,
        "run": {"checkpoint_every": 100},
        "eval": {"root": str(data), "split": "train", "size": [32, 32], "num_images": 3},
    }
    return train_model(small_config(root, **table))


def learned(root):
    losses = [entry["loss"] for entry in logged(root / "out")]
    return sum(losses[-4:]) / sum(losses[:4])


def deployed(folder):
    """The model as a user opens it, and its configs."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.identity.family.name == "genpercept"
    assert checkpoint.scheduler["beta_start"] == checkpoint.scheduler["beta_end"] == 1.0
    assert checkpoint.configs["unet"]["in_channels"] == 4
    return load_model(checkpoint)


@pytest.mark.parametrize(("task", "kind"), [("segmentation", "mask"), ("matting", "matte")])
def test_masks_and_mattes_are_learned_as_genpercept_does(tmp_path, task, kind):
    data = write_pictures(tmp_path / "pictures", size=(32, 40))
    result = genpercept_run(tmp_path, task, data)
    assert learned(tmp_path) < 0.8
    assert result.evaluation.kinds == (kind,)
    model = deployed(result.model)
    assert (model.task, model.timestep, model.x0_from_output) == (task, 1, -1.0)
    sample = fit(FolderDataset(data, task=task).read(0), 32, 32)
    rgb = torch.from_numpy(sample.rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        prediction = model(rgb)
    assert prediction.shape[1] == (3 if task == "segmentation" else 1)
    assert 0 <= prediction.min() <= prediction.max() <= 1


def test_a_decoder_alone_can_learn(tmp_path):
    data = write_folder(tmp_path / "data", num_samples=4)
    before = weights(write_start(tmp_path / "start", in_channels=4), "vae")
    result = genpercept_run(tmp_path, "disparity", data, train=["decoder"])
    after = weights(result.model, "vae")
    changed = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"decoder", "post_quant_conv"}
    assert equal(weights(result.model), weights(tmp_path / "start"))
    assert deployed(result.model).task == "disparity"


def test_a_dpt_head_is_learned_in_the_place_of_the_decoder(tmp_path):
    data = write_folder(tmp_path / "data", num_samples=4)
    result = genpercept_run(tmp_path, "disparity", data, head="dpt", train=["unet", "head"])
    assert learned(tmp_path) < 0.8
    assert (result.model / "dpt_head_identity" / "model.safetensors").is_file()
    model = deployed(result.model)
    assert isinstance(model, HeadModel)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    # The head goes on in a run that starts from the result.
    start = load_start(
        small_config(
            tmp_path,
            task="disparity",
            start={"checkpoint": str(tmp_path / "out")},
            data=[{"root": str(data), "size": [32, 32]}],
            model={"train": ["unet", "head"], "head": "dpt", **GENPERCEPT},
        )
    )
    assert start.changes == ("its DPT head goes on",)
    assert equal(start.model.head.state_dict(), model.head.state_dict())


def test_beside_a_head_lies_a_vae_that_diffusers_loads(tmp_path):
    """Whatever the start's file is called: a VAE in half precision has another name."""
    import diffusers

    vae = write_start(tmp_path / "start", in_channels=4) / "vae"
    halves = {key: value.half() for key, value in weights(tmp_path / "start", "vae").items()}
    save_file(halves, vae / "diffusion_pytorch_model.fp16.safetensors")
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    result = train_model(
        small_config(
            tmp_path,
            model={"train": ["unet", "head"], "head": "dpt", **GENPERCEPT},
            optim={"steps": 1},
        )
    )
    loaded = diffusers.AutoencoderKL.from_pretrained(result.model / "vae").state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert equal(loaded, {key: value.float() for key, value in halves.items()})


def joint_run(root, version, **sections):
    if not (root / "start").exists():
        write_geowizard(root / "start", version=version)
        write_folder(root / "data", num_samples=2, size=(64, 64))
    table = {
        "task": "geometry",
        "start": {"checkpoint": str(root / "start")},
        "data": [{"root": str(root / "data"), "size": [64, 64]}],
        "model": {"train": ["unet"], "domain": "outdoor"},
        "optim": {"steps": 3, "lr": 1e-3, "micro_batch": 1, "effective_batch": 2},
        "run": {"checkpoint_every": 100, "panel_every": 3},
        "eval": {"root": str(root / "data"), "split": "train", "size": [64, 64], "num_images": 2},
    }
    return small_config(root, **(table | sections))


@pytest.mark.parametrize("version", [1, 2])
def test_depth_and_normals_of_geowizard_learn_together(tmp_path, version):
    result = train_model(joint_run(tmp_path, version))
    values = result.evaluation.values()
    assert values["depth_abs_rel"] >= 0 < values["normals_mean_deg"] < 180
    entry = logged(tmp_path / "out")[-1]
    terms = entry["terms"]
    expected = 0.5 * terms["depth_metres"] + terms["normals_angle"]
    assert entry["loss"] == pytest.approx(expected, rel=1e-6)
    checkpoint = open_checkpoint(result.model, settings={"domain": "outdoor"})
    assert checkpoint.identity.family.name == {1: "geowizard", 2: "geowizard-v2"}[version]
    model = load_model(checkpoint)
    start = load_start(joint_run(tmp_path, version, start={"checkpoint": str(result.model)}))
    forward = TrainingForward(start.model, train=["unet"], gradient_checkpointing=False)
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        trained, used = forward(rgb, None), model(rgb)
    torch.testing.assert_close((trained[:, :1] + 1) / 2, used[:, :1])
    # Where nothing was clipped, the directions are those of the deployed model.
    inside = trained[:, 1:].abs().amax(dim=1) < 1
    assert inside.any()
    unit = trained[:, 1:] / trained[:, 1:].norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        unit.movedim(1, -1)[inside], used[:, 1:].movedim(1, -1)[inside], rtol=1e-4, atol=1e-4
    )


def test_depth_alone_is_not_trained_from_both(tmp_path):
    with pytest.raises(UsageError, match="from such a model nothing else"):
        load_start(joint_run(tmp_path, 1, task="depth", model={"domain": None}))
    write_start(tmp_path / "single")
    with pytest.raises(UsageError, match="from a model that gives both"):
        load_start(
            joint_run(
                tmp_path / "b",
                1,
                start={"checkpoint": str(tmp_path / "single")},
                model={"domain": None},
            )
        )
