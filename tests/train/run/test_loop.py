import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from e2e_deploy.errors import DataError, E2EDeployError, UnavailableError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.run import health
from e2e_deploy.train.run.heldout import HeldOut
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.training import train_model
from tests.train.fixtures import write_folder
from tests.train.small_runs import equal, logged, run_table, small_config, weights, write_start

SCRIPT = Path(__file__).with_name("launched_run.py")


def launch(table, root, *how, launcher=()):
    file = root / "table.json"
    file.write_text(json.dumps(table))
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(file), *map(str, how)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        check=False,
    )


def test_loss_falls_and_the_result_opens(tmp_path):
    config = small_config(
        tmp_path,
        optim={"steps": 25},
        run={"checkpoint_every": 100, "panel_every": 10},
        eval={"root": str(tmp_path / "data"), "split": "train", "every": 10, "num_images": 3},
    )
    result = train_model(config)
    losses = [entry["loss"] for entry in logged(tmp_path / "out")]
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert result.loss == losses[-1]
    assert result.evaluation is not None
    assert result.evaluation.num_images == 3
    entries = [
        json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    ]
    assert [entry["step"] for entry in entries if "evaluation" in entry] == [10, 20, 25]
    checkpoint = open_checkpoint(result.model)
    assert (checkpoint.identity.family.name, checkpoint.note) == ("marigold", "")
    card = json.loads((result.model / "e2e_deploy.json").read_text())
    assert card["trained"]["steps"] == 25
    assert card["trained"]["data"][0]["images"] == 6
    assert str(tmp_path) not in json.dumps(card)
    assert load_model(checkpoint)(torch.zeros(1, 3, 32, 40)).isfinite().all()


@pytest.mark.slow
def test_killed_twice_and_continued_is_bitwise_the_unbroken_run(tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train_model(small_config(tmp_path / "whole", model={"noise": "gaussian"}))
    table = run_table(tmp_path / "broken", model={"noise": "gaussian"})
    done = launch(table, tmp_path / "broken", "die_while_saving", 4)
    assert done.returncode == -signal.SIGKILL, done.stderr
    checkpoints = tmp_path / "broken" / "out" / "checkpoints"
    assert [folder.name for folder in checkpoint_folders(checkpoints)] == ["step-00000002"]
    assert list(checkpoints.glob(".step-*.partial-*"))
    done = launch(table, tmp_path / "broken", "die_at_step", 5)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "continuing after step 2" in done.stderr
    assert [f.name for f in checkpoint_folders(checkpoints)] == ["step-00000002", "step-00000004"]
    train_model(parse_config(table))
    whole, broken = tmp_path / "whole" / "out", tmp_path / "broken" / "out"
    assert logged(broken) == logged(whole)
    assert [entry["step"] for entry in logged(broken)] == [1, 2, 3, 4, 5, 6]
    for part in ("unet", "vae"):
        assert equal(weights(broken / "model", part), weights(whole / "model", part))
    assert not equal(weights(whole / "model"), weights(tmp_path / "whole" / "start"))


def sparse_masks(root):
    """Leave most pictures with a few rows of truth; one row may have none left at the training size."""
    for i, rows in enumerate((1, 2, 48, 5, 48, 1)):
        path = str(root / "train" / "depth" / f"s{i:03d}.png")
        depth = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        depth[rows:] = 0
        cv2.imwrite(path, depth)


def accelerate_on_cpus(root):
    """`accelerate launch` for two processes without a GPU: it starts them through MPI."""
    (root / "hosts").write_text("localhost slots=2\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = ("--mpirun_hostfile", str(root / "hosts"))
    meeting = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(port))
    asked = ("--num_machines", "1", "--machine_rank", "0", "--mixed_precision", "no")
    command = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    return (*command, *asked, *hosts, *meeting, "--dynamo_backend", "no")


def torchrun(_root):
    """What `accelerate launch` calls for several GPUs."""
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


no_open_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [pytest.param(accelerate_on_cpus, marks=no_open_mpi), torchrun]
)
def test_two_processes_are_one_with_twice_the_accumulation(tmp_path, launcher, monkeypatch):
    for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(variable, "1")  # test machines are often containers
    for name in ("one", "two"):
        sparse_masks(write_folder(tmp_path / name / "data", num_samples=6))
    optim = {"steps": 3, "effective_batch": 4, "micro_batch": 1}
    held_out = [
        {"root": str(tmp_path / name / "data"), "split": "train", "num_images": 5}
        for name in ("one", "two")
    ]
    alone = train_model(small_config(tmp_path / "one", optim=optim, eval=held_out[0]))
    table = run_table(tmp_path / "two", optim=optim, eval=held_out[1])
    done = launch(table, tmp_path / "two", launcher=launcher(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "1 x 2 x 2 processes" in done.stderr
    one, two = tmp_path / "one" / "out", tmp_path / "two" / "out"
    for a, b in zip(logged(one), logged(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        assert b["num_images"] == a["num_images"] == 4
    # The held-out pictures are shared too.
    told = json.loads((two / "log.jsonl").read_text().splitlines()[-1])["evaluation"]
    for name, value in alone.evaluation.values().items():
        assert told[name] == pytest.approx(value, rel=1e-2, abs=1e-3)
    for key, value in weights(one / "model").items():
        torch.testing.assert_close(weights(two / "model")[key], value, atol=2e-4, rtol=1e-2)
    reads = [(tmp_path / "two" / f"read-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    # Six images, two steps of four: within the first epoch nothing is read twice.
    first = [line for line in reads[0] + reads[1] if line.startswith("0 ")]
    assert len(first) == len(set(first)) == 4


def test_random_weights_learn_which_way_depth_points(tmp_path):
    write_start(tmp_path / "start", seed=1)
    optim = {"steps": 10, "micro_batch": 2, "effective_batch": 2}
    negative = {}
    for name, loss in (("off", {"direction_weight": 0.0}), ("on", {})):
        train_model(
            small_config(tmp_path, optim=optim, loss=loss, run={"out": str(tmp_path / name)})
        )
        negative[name] = [entry["num_negative"] for entry in logged(tmp_path / name)]
    # These weights happen to begin inverted, and the paper's loss is content with that.
    assert negative["off"] == [2] * 10
    assert negative["on"][0] == 2
    assert negative["on"][-4:] == [0] * 4


def test_only_untrained_weights_get_a_direction_by_themselves(tmp_path, capsys):
    train_model(small_config(tmp_path, optim={"steps": 1}))
    assert "against inverted depth, with weight 1" in capsys.readouterr().err
    other = {"start": {"checkpoint": str(tmp_path / "out")}, "optim": {"steps": 1}}
    train_model(small_config(tmp_path, **other, run={"out": str(tmp_path / "next")}))
    assert "against inverted depth" not in capsys.readouterr().err


def test_a_run_that_nothing_can_be_learned_from_stops_without_a_model(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", num_samples=6)
    for file in (root / "train" / "depth").iterdir():
        cv2.imwrite(str(file), np.full((48, 64), 3000, np.uint16))
    before = write_start(tmp_path / "start")
    with pytest.raises(
        E2EDeployError, match="3 steps in a row, up to step 3: of the last 4 images 4 have"
    ):
        train_model(small_config(tmp_path, optim={"steps": 3}))
    assert not (tmp_path / "out" / "model").exists()
    assert [entry["loss"] for entry in logged(tmp_path / "out")] == [None] * 3
    monkeypatch.setattr(health, "MAX_IDLE_IN_A_ROW", 2)
    run = {"out": str(tmp_path / "long")}
    with pytest.raises(E2EDeployError, match="2 steps in a row, up to step 2"):
        train_model(small_config(tmp_path, optim={"steps": 100}, run=run))
    assert before.is_dir()


def test_a_run_is_not_continued_with_other_settings(tmp_path):
    train_model(small_config(tmp_path, optim={"steps": 2}))
    with pytest.raises(UsageError, match=r"other settings \(optim.lr, run.seed\)"):
        train_model(small_config(tmp_path, optim={"steps": 4, "lr": 1e-2}, run={"seed": 3}))
    with pytest.raises(UsageError, match="holds a run"):
        train_model(small_config(tmp_path, optim={"steps": 4}), resume=False)


def test_a_finished_run_starts_the_next_at_another_size(tmp_path):
    train_model(small_config(tmp_path, optim={"steps": 2}))
    following = small_config(
        tmp_path,
        start={"checkpoint": str(tmp_path / "out")},
        data=[{"root": str(tmp_path / "data"), "size": [48, 56]}],
        optim={"steps": 1},
        model={"resolution": 64},
        run={"out": str(tmp_path / "next")},
    )
    result = train_model(following)
    assert open_checkpoint(result.model).resolution == 64
    assert not equal(weights(result.model), weights(tmp_path / "out" / "model"))


def test_finished_runs_are_left_alone(tmp_path):
    config = small_config(tmp_path, optim={"steps": 2})
    train_model(config)
    before = weights(tmp_path / "out" / "model")
    result = train_model(config)
    assert result.loss is None
    assert equal(weights(result.model), before)


def test_normals_with_frozen_vae_bf16_and_checkpointing(tmp_path):
    model = {"train": ["unet"], "precision": "bf16", "gradient_checkpointing": True}
    result = train_model(small_config(tmp_path, task="normals", model=model, optim={"steps": 2}))
    assert equal(weights(result.model, "vae"), weights(tmp_path / "start", "vae"))
    assert not equal(weights(result.model), weights(tmp_path / "start"))
    assert weights(result.model)["conv_in.weight"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore")  # diffusers' pipelines warn about themselves
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_diffusers_pipelines_give_the_same_result(tmp_path, task):
    import diffusers

    result = train_model(small_config(tmp_path, task=task, optim={"steps": 1}))
    name = {"depth": "MarigoldDepthPipeline", "normals": "MarigoldNormalsPipeline"}[task]
    pipeline = getattr(diffusers, name).from_pretrained(result.model)
    assert type(diffusers.DiffusionPipeline.from_pretrained(result.model)).__name__ == name
    pipeline.set_progress_bar_config(disable=True)
    rgb = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    latents = torch.zeros(1, 4, 4, 6)
    theirs = pipeline(
        rgb, num_inference_steps=1, processing_resolution=0, latents=latents, output_type="pt"
    )
    ours = load_model(open_checkpoint(result.model))(rgb * 2 - 1)
    torch.testing.assert_close(theirs.prediction, ours, atol=1e-4, rtol=1e-4)


def test_damaged_samples_are_counted_or_stop(tmp_path):
    write_folder(tmp_path / "data", num_samples=6)
    depth = tmp_path / "data" / "train" / "depth" / "s002.png"
    depth.write_bytes(depth.read_bytes()[:40])
    assert train_model(small_config(tmp_path, optim={"steps": 3})).progress.num_bad == 2
    with pytest.raises(DataError, match=r"s002\.png"):
        train_model(small_config(tmp_path, run={"on_bad": "stop", "out": str(tmp_path / "other")}))


def test_held_out_pictures_that_cannot_be_measured_are_counted(tmp_path, capsys):
    root = write_folder(tmp_path / "data", num_samples=6)
    write_folder(tmp_path / "data", num_samples=5, splits=("val",))
    depth = root / "val" / "depth"
    cv2.imwrite(str(depth / "s000.png"), np.zeros((48, 64), np.uint16))
    (depth / "s001.png").write_bytes(b"damaged")
    (depth / "s002.png").unlink()
    held_out = {"eval": {"root": str(root)}, "optim": {"steps": 1}}
    result = train_model(small_config(tmp_path, **held_out))
    assert result.evaluation.num_images == 2
    said = capsys.readouterr().err
    assert "(val): 1 of 5 samples are left out (truth file missing: 1; the first: " in said
    assert "truth file missing: 1" in said.split("not measured: ")[1]
    assert "unreadable: 1" in said.split("not measured: ")[1]
    stop = {"out": str(tmp_path / "other"), "on_bad": "stop"}
    with pytest.raises(DataError, match=r"s001\.png"):
        train_model(small_config(tmp_path, **held_out, run=stop))


def test_fp16_without_a_gpu_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UnavailableError, match="fp16 needs a GPU"):
        train_model(small_config(tmp_path, model={"precision": "fp16"}))


def test_four_channel_mode_trains(tmp_path):
    write_start(tmp_path / "start", in_channels=4)
    config = small_config(tmp_path, model={"noise": "none"}, optim={"steps": 1})
    result = train_model(config)
    # Written with a second half that is multiplied by zero; the next run cuts it again.
    assert load_model(open_checkpoint(result.model)).in_channels == 8
    following = {
        "start": {"checkpoint": str(tmp_path / "out")},
        "run": {"out": str(tmp_path / "b")},
    }
    train_model(small_config(tmp_path, model={"noise": "none"}, optim={"steps": 1}, **following))


def card_of(result):
    return json.loads((result.model / "e2e_deploy.json").read_text())


def test_the_best_on_held_out_pictures_becomes_the_model(tmp_path, monkeypatch):
    numbers, measure = {2: 0.4, 4: 0.2, 6: 0.3, 8: 0.25}, HeldOut.measure
    seen = {}

    def measured(self, stepper, should_stop):
        result, step = measure(self, stepper, should_stop), len(seen) * 2 + 2
        seen[step] = stepper.forward.model.unet.conv_in.weight.detach().clone()
        metrics = dataclasses.replace(result.metrics, abs_rel=numbers[step])
        return dataclasses.replace(result, metrics=metrics, problem=None)

    monkeypatch.setattr(HeldOut, "measure", measured)
    held_out = {"root": str(tmp_path / "data"), "split": "train", "every": 2, "num_images": 2}
    best = held_out | {"select": "best"}
    result = train_model(small_config(tmp_path, optim={"steps": 6}, eval=best))
    assert torch.equal(weights(result.model)["conv_in.weight"], seen[4])
    card = card_of(result)["trained"]
    assert card["selected"] == {"step": 4, "by": "abs_rel"}
    assert (card["steps"], card["evaluation"]["abs_rel"]) == (6, 0.2)
    # A continued run goes on from its last step, and knows the best so far.
    result = train_model(small_config(tmp_path, optim={"steps": 8}, eval=best))
    assert torch.equal(weights(result.model)["conv_in.weight"], seen[4])
    assert not torch.equal(seen[6], seen[8])
    numbers |= {10: 0.9}
    result = train_model(small_config(tmp_path, optim={"steps": 10}, eval=held_out))
    assert torch.equal(weights(result.model)["conv_in.weight"], seen[10])
    assert card_of(result)["trained"]["selected"] == "last"


def test_an_inverted_model_says_so(tmp_path, capsys):
    write_start(tmp_path / "start", seed=1)  # which happens to begin inverted
    optim, loss = {"steps": 2, "lr": 1e-6}, {"direction_weight": 0.0}
    held_out = {"root": str(tmp_path / "data"), "split": "train"}
    for name, sections, told in (
        ("measured", {"eval": held_out}, "negative in 6 of 6 images"),
        ("unmeasured", {}, "negative in 8 of the last 8 training images"),
    ):
        run = {"out": str(tmp_path / name)}
        result = train_model(small_config(tmp_path, optim=optim, loss=loss, run=run, **sections))
        card = card_of(result)
        assert (card["note"], told in card["trained"]["problem"]) == ("inverted depth", True)
        assert told in capsys.readouterr().err
        assert open_checkpoint(result.model).note == "inverted depth"
