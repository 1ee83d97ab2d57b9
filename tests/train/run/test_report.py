import errno
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.train.run.report import Reporter
from e2e_deploy.train.step.step_report import StepReport


def report(step, **changes):
    values = {"loss": 1 / step, "grad_norm": 2.0, "lr": 1e-4, "num_images": 4}
    values |= {"num_degenerate": 0, "num_flat": 0, "num_negative": 0, "num_bad": 0}
    values |= {"direction": 0.0, "skipped": False}
    return StepReport(step=step, **(values | changes))


def reporter(out, first_step=0, **changes):
    values = {"steps": 10, "log_every": 2, "enabled": True}
    return Reporter(out, first_step=first_step, **(values | changes))


def steps(out):
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_lines_in_a_pipe_go_to_stderr(tmp_path, capsys):
    with reporter(tmp_path) as told:
        for step in range(1, 5):
            told.step(report(step, skipped=step == 3))
        told.evaluation(4, {"abs_rel": 0.25, **dict.fromkeys("abcdef", 0.0), "negative_scale": 0.5})
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("step 2/10  loss 0.5000  lr 1.00e-04")
    assert "images/s" in lines[0]
    assert lines[1] == "step 3 skipped: loss or gradient is NaN or infinite"
    assert lines[-1] == (
        "step 4  held-out: abs_rel 0.2500  a 0.0000  b 0.0000  c 0.0000  negative_scale 0.5000"
    )
    assert steps(tmp_path) == [2, 4, 4]


def test_images_that_are_not_as_they_should_be_are_in_the_step_line(tmp_path, capsys):
    with reporter(tmp_path, log_every=1) as told:
        told.step(report(1, num_negative=3, num_degenerate=1))
        told.step(report(2, loss=None, num_degenerate=3, num_flat=1, num_bad=2))
    lines = capsys.readouterr().err.splitlines()
    assert "loss 1.0000  inverted 3/4  no usable truth 1/4  lr" in lines[0]
    assert "loss none  no usable truth 3/4  flat prediction 1/4  unreadable 2/4  lr" in lines[1]
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert (first["num_negative"], first["num_degenerate"]) == (3, 1)
    assert (second["loss"], second["num_flat"]) == (None, 1)


def test_a_problem_of_the_held_out_numbers_is_said_and_logged(tmp_path, capsys):
    with reporter(tmp_path) as told:
        told.evaluation(4, {"abs_rel": 0.25, "negative_scale": 1.0}, "the depth is inverted")
    assert capsys.readouterr().err.splitlines()[-1] == "step 4  held-out: the depth is inverted"
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert (entry["problem"], entry["evaluation"]["negative_scale"]) == ("the depth is inverted", 1)


def test_continuing_forgets_what_is_redone(tmp_path):
    with reporter(tmp_path) as told:
        for step in range(1, 9):
            told.step(report(step))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # a kill tore the line
    with reporter(tmp_path, first_step=4) as told:
        assert steps(tmp_path) == [2, 4]
        told.step(report(6))
    assert steps(tmp_path) == [2, 4, 6]


@pytest.mark.parametrize("name", ["log.jsonl", "logs"])
def test_a_full_disk_names_the_file(tmp_path, name, monkeypatch, capsys):
    def full(*_arguments, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(E2EDeployError) as caught, reporter(tmp_path, log_every=1) as told:
        if name == "logs":
            monkeypatch.setattr(
                told._writer.file_writer.event_writer._general_file_writer, "write", full
            )
        else:
            monkeypatch.setattr(Path, "open", full)
        for step in range(1, 200):
            told.step(report(step))
    assert str(tmp_path / name) in str(caught.value)
    assert "could not be written: No space left on device; free space" in str(caught.value)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["my notes\n", '{"loss": 1}\n', "[" * 50_000 + "\n", "3\n"])
def test_a_log_that_is_not_ours_is_left_alone(tmp_path, content):
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(UsageError, match=r"log\.jsonl is not the log of a run"):
        reporter(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == content


def test_tensorboard_has_scalars_and_pictures(tmp_path):
    with reporter(tmp_path) as told:
        told.step(report(2))
        told.panel(2, np.zeros((4, 6, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [0.5]
    assert events.Images("rgb | target | prediction")[0].width == 6


def test_other_processes_say_nothing(tmp_path, capsys):
    with reporter(tmp_path, enabled=False) as told:
        told.step(report(2))
        told.say("hello")
        told.panel(2, np.zeros((4, 6, 3), np.uint8))
        told.evaluation(2, {})
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_a_terminal_gets_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with reporter(tmp_path) as told:
        told.step(report(2))
    assert "training 2/10  ####" in capsys.readouterr().err
