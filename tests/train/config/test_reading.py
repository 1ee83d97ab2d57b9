import dataclasses
import os
from pathlib import Path

import pytest

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.train.config.reading import (
    changed_keys,
    config_sha256,
    config_table,
    load_config,
    parse_config,
)
from e2e_deploy.train.training import train_model

CONFIGS = Path(__file__).parents[3] / "configs"


def minimal(**sections):
    table = {
        "task": "depth",
        "start": {"checkpoint": "somewhere"},
        "data": [{"root": "data"}],
        "run": {"out": "out"},
    }
    return table | sections


MATTING = {"task": "matting", "model": {"family": "genpercept", "noise": "none"}}


def test_objectives_can_be_chosen():
    config = parse_config(minimal(loss={"terms": {"mse": 1, "ssi": 0.5, "gradient": 2}}))
    assert config.loss.terms.gradient == 2
    assert parse_config(config_table(config)) == config
    drawn = parse_config(minimal(diffusion={"measured_steps": 10})).diffusion
    assert (drawn.noise, drawn.strength, drawn.annealed, drawn.zero_snr) == (
        *("pyramid", 0.9),
        *(True, True),
    )
    assert parse_config(minimal(**MATTING)).task == "matting"


def test_a_config_of_before_is_the_same_config():
    assert not {"terms", "outputs"} & config_table(parse_config(minimal()))["loss"].keys()
    assert "family" not in config_table(parse_config(minimal()))["model"]
    assert "diffusion" not in config_table(parse_config(minimal()))


def test_defaults_are_the_papers():
    config = parse_config(minimal())
    optim = config.optim
    assert (optim.lr, optim.betas, optim.weight_decay, optim.clip_norm) == (
        3e-5,
        (0.9, 0.999),
        1e-2,
        1.0,
    )
    assert (optim.steps, optim.warmup_steps, optim.decay_steps) == (20_000, 100, 20_000)
    assert (optim.final_lr_ratio, optim.micro_batch, optim.effective_batch) == (0.01, 2, 32)
    assert (config.model.noise, config.model.train) == ("zeros", ("unet",))
    assert config.model.precision == "fp32"


def test_every_mistake_is_reported_at_once():
    table = minimal(
        task="dept",
        data=[{"root": 3, "ratio": 0, "colour": "red"}],
        model={"precision": "fp64", "train": ["unet", "tail"]},
        optim={"lr": "fast", "steps": 1.5, "betas": [0.9]},
        trainer={},
    )
    table["run"] = {"keep": True}
    with pytest.raises(UsageError) as caught:
        parse_config(table)
    message = str(caught.value)
    assert "12 mistakes" in message
    for mistake in (
        "unknown key trainer",
        "task is 'dept'; expected one of depth, disparity, normals",
        "data[0].root is 3",
        "data[0].ratio is 0; expected at least 1",
        "unknown key data[0].colour",
        "model.precision is 'fp64'",
        "model.train[1] is 'tail'",
        "optim.lr is 'fast'",
        "optim.steps is 1.5",
        "optim.betas has 1 entries; expected 2",
        "run.out is missing",
        "run.keep is True",
    ):
        assert mistake in message


@pytest.mark.parametrize(
    ("sections", "mistake"),
    [
        ({"optim": {"effective_batch": 5}}, "effective_batch 5 is not a multiple"),
        ({"optim": {"warmup_steps": 30_000}}, "warmup_steps 30000 must be below"),
        ({"optim": {"lr": 0}}, "optim.lr is 0.0; expected above 0"),
        ({"optim": {"lr": float("nan")}}, "optim.lr is nan"),
        ({"data": []}, "data is empty"),
        ({"data": [{"root": "d", "size": [100, 128]}]}, "data[0].size is [100, 128]"),
        ({"model": {"train": []}}, "model.train is []"),
        ({"model": {"train": ["vae", "vae"]}}, "model.train is ['vae', 'vae']"),
        ({"eval": {"root": "d", "size": [8, 12]}}, "eval.size is [8, 12]"),
        ({"model": 3}, "model must be a table"),
        ({"speed": {"images_per_pass": 3}}, "speed.images_per_pass 3 is not a multiple of"),
        ({"speed": {"images_per_pass": -2}}, "speed.images_per_pass is -2; expected at least 0"),
        ({"speed": {"compile": "yes"}}, "speed.compile is 'yes'; expected True or False or 'auto'"),
        ({"speed": {"compile": 1}}, "speed.compile is 1; expected True or False or 'auto'"),
        ({"model": {"gradient_checkpointing": "on"}}, "model.gradient_checkpointing is 'on'"),
        (
            {"optim": {"betas": [0.9, 1.0]}},
            "optim.betas[1] is 1.0; expected at least 0 and at most",
        ),
        ({"loss": {"mean": "pixels"}}, "loss.mean is 'pixels'; expected 'step' or 'micro_batch'"),
        ({"loss": {"direction_weight": -1}}, "loss.direction_weight is -1.0; expected at least 0"),
        (
            {"task": "normals", "loss": {"direction_weight": 1.0}},
            "loss.direction_weight is for the terms metres and relative of depth",
        ),
        (
            {"loss": {"direction_weight": 1.0, "terms": {"mse": 1}}},
            "loss.direction_weight is for the terms metres and relative of depth",
        ),
        ({"loss": {"terms": {"angle": 1}}}, "loss.terms.angle has no meaning for depth"),
        ({"loss": {"terms": {}}}, "loss.terms gives depth no weight; name one of mse, l1, ssi"),
        ({"loss": {"terms": {"huber": 1}}}, "unknown key loss.terms.huber"),
        (
            {"task": "normals", "loss": {"terms": {"open_angle": 1, "mse": 1}}},
            "loss.terms.open_angle counts pixels of its own",
        ),
        (
            {"loss": {"terms": {"mse": 1, "gradient_scales": 4}}},
            "gradient_scales and gradient_of are of the gradient term",
        ),
        (
            {**MATTING, "loss": {"terms": {"gradient": 1, "gradient_of": "aligned"}}},
            'loss.terms.gradient_of = "aligned" is for depth and disparity',
        ),
        ({"loss": {"outputs": {}}}, "loss.outputs is for a task of several results"),
        ({"diffusion": {}, "model": {"noise": "pyramid"}}, "with [diffusion] diffusion.noise says"),
        (
            {"diffusion": {}, "model": {"train": ["vae"]}},
            "with [diffusion] only the UNet can learn",
        ),
        ({"diffusion": {}, "loss": {"terms": {"mse": 1}}}, "loss.terms is for decoded results"),
        (
            {"diffusion": {"noise": "gaussian", "strength": 0.5}},
            "diffusion.strength and annealed are of noise",
        ),
        ({"diffusion": {"strength": 1.5}}, "diffusion.strength is 1.5; expected at least 0"),
        ({"model": {"head": "dpt"}}, "model.head is for depth and disparity with model.family"),
        (
            {"task": "disparity", "model": {**MATTING["model"], "head": "dpt"}},
            "model.train is ['unet']; with model.head it is ['head'] or ['unet', 'head']",
        ),
        (
            {
                "task": "disparity",
                "model": {**MATTING["model"], "head": "dpt", "train": ["unet", "head"]},
            },
            "model.head needs the size of all data",
        ),
        ({"model": {"train": ["head"]}}, "model.train has head; model.head says which"),
        ({"model": {"train": ["vae", "decoder"]}}, "the decoder is a part of the vae"),
        ({"task": "geometry", "model": {"noise": "none"}}, "GeoWizard has a second half"),
        ({"task": "geometry", "model": {"family": "marigold"}}, "stays what its start is"),
        ({"task": "geometry", "diffusion": {}}, "[diffusion] is for one result"),
        ({"task": "geometry", "start": {"checkpoint": "random"}}, "task geometry needs a start"),
        ({"model": {"domain": "outdoor"}}, "model.domain is for geometry"),
        (
            {"start": {"checkpoint": "random"}, "model": {"noise": "none"}},
            "model.noise is none, but random weights take a second half",
        ),
        ({"task": "matting"}, "model.family marigold has no matting; genpercept has"),
        ({"model": {"family": "genpercept"}}, 'set model.noise = "none"'),
        (
            {**MATTING, "diffusion": {}, "loss": {}},
            "[diffusion] needs a second half of the UNet's input",
        ),
    ],
)
def test_contradictions(sections, mistake):
    with pytest.raises(UsageError, match="mistake") as caught:
        parse_config(minimal(**sections))
    assert mistake in str(caught.value)


def test_contradictions_show_beside_other_mistakes():
    with pytest.raises(UsageError, match="2 mistakes") as caught:
        parse_config(minimal(optim={"effective_batch": 5}, modle={}))
    assert "effective_batch" in str(caught.value)
    assert "unknown key modle" in str(caught.value)


def test_table_reads_back():
    config = parse_config(minimal(eval={"root": "data"}))
    assert parse_config(config_table(config)) == config
    other = dataclasses.replace(config, task="normals")
    assert config_sha256(other) != config_sha256(config)


def test_configs_made_in_python_are_checked_too():
    config = parse_config(minimal())
    wrong = dataclasses.replace(config, optim=dataclasses.replace(config.optim, micro_batch=0))
    with pytest.raises(UsageError, match="micro_batch is 0"):
        train_model(wrong)


def test_what_may_change_on_resume():
    old = config_table(parse_config(minimal()))
    free = minimal(
        optim={"steps": 7},
        run={"out": "elsewhere", "workers": 0},
        eval={"root": "data"},
        model={"gradient_checkpointing": True},
        speed={"compile": True, "images_per_pass": 4},
    )
    assert changed_keys(old, config_table(parse_config(free))) == []
    other = minimal(optim={"lr": 1e-4}, run={"out": "out", "seed": 1}, task="normals")
    assert changed_keys(old, config_table(parse_config(other))) == ["optim.lr", "run.seed", "task"]


def test_a_lower_learning_rate_may_go_on():
    old = config_table(parse_config(minimal(optim={"lr": 1e-4})))
    for lr, changed in ((1e-5, []), (1e-4, []), (2e-4, ["optim.lr"])):
        assert changed_keys(old, config_table(parse_config(minimal(optim={"lr": lr})))) == changed
    assert changed_keys({"optim": {"lr": "x"}}, {"optim": {"lr": 1e-5}}) == ["optim.lr"]


@pytest.mark.parametrize(
    ("sections", "mistake"),
    [
        (
            {"run": {"out": "o", "workers": 10**6}},
            "run.workers is 1000000; expected at least 0 and at most 1024",
        ),
        ({"optim": {"effective_batch": 10**9}}, "optim.effective_batch is 1000000000; expected"),
        ({"optim": {"micro_batch": 10**9}}, "optim.micro_batch is 1000000000"),
        ({"optim": {"steps": 1e30}}, "optim.steps is 1e+30; expected a value of type int"),
        ({"optim": {"steps": 10**30}}, "optim.steps is 1000000000000000000000000000000; expected"),
        ({"optim": {"lr": float("inf")}}, "optim.lr is inf; expected a finite number"),
        ({"optim": {"lr": -1e-5}}, "optim.lr is -1e-05; expected above 0"),
        ({"optim": {"lr": True}}, "optim.lr is True; expected a value of type float"),
        ({"optim": {"lr": 10**400}}, "optim.lr is inf"),
        ({"optim": {"weight_decay": float("inf")}}, "optim.weight_decay is inf"),
        ({"optim": {"clip_norm": float("nan")}}, "optim.clip_norm is nan"),
        ({"run": {"out": "o", "seed": 10**30}}, "run.seed is 1000000000"),
        ({"run": {"out": ""}}, "run.out is ''; expected a text that is not empty"),
        ({"run": {"out": "a\0b"}}, "without control characters"),
        ({"start": {"checkpoint": ""}}, "start.checkpoint is ''"),
        ({"data": [{"root": "d", "ratio": 10**8}]}, "data[0].ratio is 100000000"),
        ({"data": [{"root": "d", "size": [8, 8 * 10**9]}]}, "data[0].size[1] is 8000000000"),
        ({"data": {"root": "d"}}, "data is {'root': 'd'}; expected a list"),
        ({"a\x1b[2J": 1}, "unknown key a\ufffd[2J"),
    ],
)
def test_values_out_of_bounds(sections, mistake):
    with pytest.raises(UsageError, match="mistake") as caught:
        parse_config(minimal(**sections))
    assert mistake in str(caught.value)


def test_no_clipping_is_a_setting():
    assert parse_config(minimal(optim={"clip_norm": float("inf")})).optim.clip_norm == float("inf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + 5000 * "[" + 5000 * "]", "not TOML: it is nested too deep"),
        ("a = 1" + 5000 * "0", "not TOML"),
        (b"\xff", "not TOML"),
    ],
)
def test_files_that_are_not_toml(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        load_config(path)


def test_only_small_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "endless.toml").symlink_to("/dev/zero")
    (tmp_path / "large.toml").write_bytes(b"#" * (2**20 + 1))
    for name, reason in (("pipe", "a named pipe"), ("endless", "a device"), ("large", "at most")):
        with pytest.raises(InputError, match=reason):
            load_config(tmp_path / f"{name}.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("task = ")
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configs_are_right(path):
    load_config(path)


def test_the_papers_config_has_the_papers_loss():
    loss = load_config(CONFIGS / "paper_depth.toml").loss
    assert (loss.mean, loss.direction_weight) == ("micro_batch", 0)
