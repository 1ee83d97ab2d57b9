"""A start with an AutoencoderTiny is trained as any other: in parts, in half precision, compiled, cut up."""

from pathlib import Path

import pytest
import torch

from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.config.distillation import CoderShape
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.distillation.coder import with_small_coder
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.start import load_start
from e2e_deploy.train.step.compiled import compile_regions
from e2e_deploy.train.training import train_model
from tests.train.fixtures import write_folder
from tests.train.small_runs import equal, logged, one_thread, run_table, weights, write_start
from tests.train.together import train_together

assert one_thread  # a fixture


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("start")
    checkpoint = open_checkpoint(write_start(root / "large"))
    model = with_small_coder(
        load_model(checkpoint), CoderShape(8, (0, 1, 1, 1), (1, 1, 1, 0)), seed=0
    )
    return write_model(root / "small", model, checkpoint, resolution=320, trained={})


def table(root, start, **sections):
    root.mkdir(exist_ok=True)
    if not (root / "data").exists():
        write_folder(root / "data", num_samples=6)
    return run_table(root, start={"checkpoint": str(start)}, **sections)


def test_the_decoder_alone_learns_in_half_precision(tmp_path, start):
    model = {"train": ["decoder"], "precision": "bf16", "gradient_checkpointing": "auto"}
    held_out = {"root": str(tmp_path / "data"), "split": "train", "num_images": 2, "size": [32, 40]}
    made = table(
        tmp_path,
        start,
        model=model,
        eval=held_out | {"select": "best", "every": 1},
        optim={"steps": 3, "lr": 1e-3},
    )
    result = train_model(parse_config(made))
    assert (tmp_path / "out" / "best.safetensors").is_file()
    before, after = (weights(folder, "vae") for folder in (start, result.model))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(key.startswith("decoder.") for key in moved)
    assert equal(weights(start), weights(result.model))


def test_two_processes_with_slices_take_the_same_steps(tmp_path, start):
    optim = {"steps": 2, "micro_batch": 1, "effective_batch": 4, "lr": 3e-4}
    train_model(parse_config(table(tmp_path / "one", start, optim=optim)))
    cut = table(tmp_path / "two", start, optim=optim, speed={"shard": True})
    assert train_together(cut, 2) == []
    newest = checkpoint_folders(tmp_path / "two" / "out" / "checkpoints")[-1]
    assert len(list((newest / "shards").glob("*.safetensors"))) == 2
    for mine, its in zip(
        *(logged(tmp_path / name / "out") for name in ("one", "two")), strict=True
    ):
        assert its["loss"] == pytest.approx(mine["loss"], rel=2e-6)
        assert its["grad_norm"] == pytest.approx(mine["grad_norm"], rel=2e-4)
    one, two = (weights(tmp_path / name / "out" / "model", "vae") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-4, rtol=1e-2)


def test_its_blocks_are_compiled(tmp_path, start, caplog):
    made = parse_config(table(tmp_path, start))
    model = load_start(made).model
    assert not caplog.messages  # diffusers warns of a key of its own in an AutoencoderTiny's config
    compile_regions(model)
    blocks = [m for m in model.vae.modules() if type(m).__name__ == "AutoencoderTinyBlock"]
    assert len(blocks) == 6
    assert all(block._compiled_call_impl is not None for block in blocks)
