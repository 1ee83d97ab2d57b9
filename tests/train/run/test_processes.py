"""One run in one, two and three processes, whole and sharded: the same steps, whoever does them or goes on."""

import json
import shutil

import pytest
import torch

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.run.resume import checkpoint_folders
from e2e_deploy.train.training import train_model
from tests.family_checkpoints.geowizard import write_geowizard
from tests.train.fixtures import write_folder
from tests.train.run.test_loop import sparse_masks
from tests.train.small_runs import logged, one_thread, run_table, small_config, weights
from tests.train.together import train_together

EXACT = 2e-6
"""Relative, of float32 gradients that are summed in another order, after some steps of a network with a large rate."""

SHARD = {"shard": True}

assert one_thread  # a fixture


def table_of(root, name, *, steps=4, **sections):
    optim = {"steps": steps, "micro_batch": 1, "effective_batch": 4, "lr": 3e-4}
    sections["optim"] = optim | sections.get("optim", {})
    sections["run"] = {"out": str(root / name / "out"), **sections.get("run", {})}
    (root / name).mkdir(exist_ok=True)
    return run_table(root, **sections)


def assert_same_steps(root, one, other, rel=EXACT):
    ours, theirs = logged(root / one / "out"), logged(root / other / "out")
    for mine, its in zip(ours, theirs, strict=True):
        assert its["loss"] == pytest.approx(mine["loss"], rel=rel)
        assert its["grad_norm"] == pytest.approx(mine["grad_norm"], rel=100 * rel)
        assert its.get("terms", {}) == pytest.approx(mine.get("terms", {}), rel=rel)
        counts = [key for key in mine if key.startswith("num_")]
        assert [its[key] for key in counts] == [mine[key] for key in counts]
        assert mine["num_images"] > 0
    assert len({entry["loss"] for entry in ours}) == len(ours)


@pytest.mark.slow
def test_a_run_goes_through_one_two_and_three_processes_and_slices_of_each(tmp_path):
    """Each checkpoint is gone on from by another number of processes; the steps are those of one that did them all.

    Three share four images, so that one of them has two.
    """
    sparse_masks(write_folder(tmp_path / "data", num_samples=6))
    train_model(parse_config(table_of(tmp_path, "one", steps=5)))
    held_out = {"root": str(tmp_path / "data"), "split": "train", "num_images": 3}
    for steps, number, speed in ((1, 3, SHARD), (2, 1, {}), (4, 2, SHARD), (5, 3, {})):
        table = table_of(tmp_path, "many", steps=steps, speed=speed, run={"panel_every": 4})
        if steps == 4:
            table["eval"] = held_out  # of which one process measures two
        if number > 1:
            assert train_together(table, number) == []
        else:
            train_model(parse_config(table))
        newest = checkpoint_folders(tmp_path / "many" / "out" / "checkpoints")[-1]
        files = sorted(path.name for path in newest.rglob("*.safetensors"))
        assert len(files) == (number if speed else 3)
    assert_same_steps(tmp_path, "one", "many")
    for part in ("unet", "vae"):
        one, many = (weights(tmp_path / name / "out" / "model", part) for name in ("one", "many"))
        assert one.keys() == many.keys()
        for key, value in one.items():
            torch.testing.assert_close(many[key], value, atol=1e-4, rtol=1e-2)
    said = (tmp_path / "many" / "said-0.txt").read_text()
    assert "= 1 x 4 for 3 processes, 1 or 2 each" in said
    assert "continuing after step 4" in said


def geowizard(root):
    write_geowizard(root / "start", version=2)
    write_folder(root / "data", num_samples=2, size=(64, 64))
    return {
        "task": "geometry",
        "data": [{"root": str(root / "data"), "size": [64, 64]}],
        "model": {"train": ["unet"], "domain": "outdoor"},
    }


OBJECTIVES = {
    "terms": lambda _: {"loss": {"terms": {"mse": 1.0, "ssi": 0.5, "gradient": 2.0}}},
    "micro_batch": lambda _: {"loss": {"mean": "micro_batch"}, "model": {"noise": "gaussian"}},
    "diffusion": lambda _: {"model": {"train": ["unet"]}, "diffusion": {"measured_steps": 2}},
    "geometry": geowizard,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_sums_over_processes(tmp_path, name):
    sections = OBJECTIVES[name](tmp_path)
    steps = 1 if name == "geometry" else 2
    optim = {"effective_batch": 2 * steps}
    train_model(parse_config(table_of(tmp_path, "one", steps=steps, optim=optim, **sections)))
    table = table_of(tmp_path, "two", steps=steps, optim=optim, **sections)
    assert train_together(table, 2) == []
    assert_same_steps(tmp_path, "one", "two", rel=1e-5)
    assert ("terms" in logged(tmp_path / "two" / "out")[0]) == (name in ("terms", "geometry"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A run of two processes that stopped after a step."""
    root = tmp_path_factory.mktemp("sharded")
    assert train_together(table_of(root, "two", steps=1, speed=SHARD), 2) == []
    return root


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("missing", "does not hold the 2 files"),
        ("cut", "does not hold the 2 files"),
        ("header", "HeaderTooLarge|header"),
        ("moved", "belong nowhere|another shape|does not fit"),
        ("nan", "NaN or infinity"),
    ],
)
def test_damaged_slices_are_refused_by_name(sharded, damage, told):
    shutil.copytree(sharded / "two", sharded / damage)
    folder = checkpoint_folders(sharded / damage / "out" / "checkpoints")[-1]
    first, second = sorted((folder / "shards").iterdir())
    content = bytearray(second.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    if damage == "missing":
        second.unlink()
    elif damage == "cut":
        second.write_bytes(content[:-4])
    elif damage == "header":
        second.write_bytes(b"\xff" * 8 + content[8:])
    elif damage == "moved":
        text = content[:header].replace(b"saved_offsets", b"saved_offsetz")
        assert text != content[:header]
        second.write_bytes(text + content[header:])
    else:
        content[header:] = b"\xff" * (len(content) - header)
        second.write_bytes(content)
    assert first.exists()
    with pytest.raises(CheckpointError, match=told) as caught:
        train_model(parse_config(table_of(sharded, damage, steps=3)))
    assert str(folder) in str(caught.value)


def test_slices_hold_no_pickle_and_say_their_sizes(sharded):
    folder = checkpoint_folders(sharded / "two" / "out" / "checkpoints")[-1]
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    sizes = json.loads((folder / "state.json").read_text())["shards"]
    assert sizes == {path.name: path.stat().st_size for path in (folder / "shards").iterdir()}
    # Half of what is trained and its moments each, but for what does not divide.
    assert max(sizes.values()) < 0.6 * sum(sizes.values())


def test_what_cannot_be_sharded_is_refused(tmp_path):
    with pytest.raises(UsageError, match="for several processes, and this is one alone"):
        train_model(small_config(tmp_path, speed=SHARD))
    held_out = {"root": str(tmp_path / "data"), "select": "best"}
    for sections, told in (
        ({"model": {"precision": "fp16"}}, "speed.shard is for model.precision"),
        ({"speed": {"compile": True} | SHARD}, "speed.compile has no effect"),
        ({"eval": held_out}, "keeps whole weights"),
        (
            {"data": [{"root": str(tmp_path / "data")}], "speed": {"images_per_pass": 4} | SHARD},
            "same number of passes",
        ),
    ):
        with pytest.raises(UsageError, match=told):
            small_config(tmp_path, **{"speed": SHARD} | sections)
