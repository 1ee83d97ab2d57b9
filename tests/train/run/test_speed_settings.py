"""Settings of speed in a whole run: chosen, said, changed on the way."""

import pytest
from torch import nn

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.run.failures import failures_said
from e2e_deploy.train.step import choices
from e2e_deploy.train.training import train_model
from tests.train.small_runs import logged, small_config


def test_a_run_goes_on_compiled_and_in_larger_passes(tmp_path, monkeypatch, capsys):
    """AOTAutograd's graphs run by torch stand for the compiler, whose code takes minutes to make."""
    optim = {"micro_batch": 1, "effective_batch": 2}
    for name in ("plain", "changed"):
        run = {"out": str(tmp_path / name)}
        auto = {"gradient_checkpointing": "auto"}
        train_model(small_config(tmp_path, optim=optim | {"steps": 2}, run=run, model=auto))
    said = capsys.readouterr().err
    assert "gradient checkpointing off: an image needs 0.0 GiB without it" in said
    assert "1 image a pass" in said
    assert "compilation off: on a CPU it takes minutes first" in said
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **how: compile_module(self, backend="aot_eager", **how)
    )
    monkeypatch.setattr(choices, "why_not_compiled", lambda device: None)
    speed = {"compile": True, "images_per_pass": 2}
    for name, section in (("plain", {}), ("changed", {"speed": speed})):
        run = {"out": str(tmp_path / name)}
        train_model(small_config(tmp_path, optim=optim | {"steps": 4}, run=run, **section))
    assert "2 images a pass" in capsys.readouterr().err
    plain, changed = logged(tmp_path / "plain"), logged(tmp_path / "changed")
    assert plain[:2] == changed[:2]
    for a, b in zip(plain[2:], changed[2:], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-2)


def test_a_compiler_that_fails_is_one_sentence(tmp_path):
    from torch._inductor.exc import CppCompileError

    with (
        pytest.raises(E2EDeployError, match=r"could not compile .*set speed\.compile = false"),
        failures_said(small_config(tmp_path)),
    ):
        raise CppCompileError(["g++", "kernel.cpp"], "no space left")
