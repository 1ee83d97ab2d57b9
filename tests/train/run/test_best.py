import pytest
import torch
from torch import nn

from e2e_deploy import metrics
from e2e_deploy.errors import CheckpointError
from e2e_deploy.train.accuracy import Evaluation
from e2e_deploy.train.config.settings import EvalConfig
from e2e_deploy.train.run.best import BestWeights

HELD_OUT = EvalConfig(root="data", select="best")


def result(abs_rel, problem=None):
    target = torch.tensor([[1.0, 2.0, 3.0]]).numpy()
    measured = metrics.depth_metrics(target, target, target > 0)
    values = {f: getattr(measured, f) for f in measured.__slots__} | {"abs_rel": abs_rel}
    return Evaluation(
        kinds=("depth",),
        metrics=type(measured)(**values),
        num_images=1,
        left_out={},
        worst=(),
        problem=problem,
    )


def parts(value):
    part = nn.Linear(2, 2)
    nn.init.constant_(part.weight, value)
    return {"unet": part}


def opened(file, modules, config=HELD_OUT, *, pictures="ab12", is_fresh=False):
    return BestWeights(file, modules, config, pictures=pictures, is_fresh=is_fresh)


def test_the_best_is_kept_over_processes(tmp_path):
    file, modules = tmp_path / "best.safetensors", parts(1.0)
    best = opened(file, modules, is_fresh=True)
    assert best.offer(2, result(0.3))
    nn.init.constant_(modules["unet"].weight, 2.0)
    assert not best.offer(4, result(0.3))
    nn.init.constant_(modules["unet"].weight, 3.0)
    assert not best.offer(6, result(0.1, problem="the depth is inverted"))
    later = opened(file, parts(9.0))
    assert (later.best.step, later.best.values["abs_rel"]) == (2, 0.3)
    assert not later.offer(8, result(0.4))
    later.load()
    assert (later.parts["unet"].weight == 1).all()
    assert later.offer(10, result(0.2))
    assert opened(file, modules).best.step == 10


def test_other_pictures_or_another_run_begin_anew(tmp_path):
    file, modules = tmp_path / "best.safetensors", parts(1.0)
    opened(file, modules, is_fresh=True).offer(2, result(0.3))
    rarer = EvalConfig(root="data", every=7)
    assert opened(file, modules, rarer).best is not None
    assert opened(file, modules, EvalConfig(root="data", num_images=3)).best is None
    assert opened(file, modules, pictures="cd34").best is None
    assert opened(file, modules, is_fresh=True).best is None
    assert not file.exists()


def test_a_damaged_file_is_named(tmp_path):
    file, modules = tmp_path / "best.safetensors", parts(1.0)
    opened(file, modules, is_fresh=True).offer(2, result(0.3))
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    with pytest.raises(CheckpointError, match=r"best\.safetensors cannot be used"):
        opened(file, modules)
    file.write_bytes(whole)
    other = opened(file, {"unet": nn.Linear(3, 3)})
    with pytest.raises(CheckpointError, match="size mismatch"):
        other.load()
