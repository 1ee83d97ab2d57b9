"""Every option of every verb changes what comes out or is an error: none is silently ignored.

option_cases.py holds a row for each option that click knows; an option without a row fails, and so does a row without
an option. Runs, measurements and checks of a small bundle are real; exports and trainings end at the call of the
public function, which must differ.
"""

import importlib
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import click
import cv2
import numpy as np
import pytest

from e2e_deploy.cli import VERBS, main
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.bulk.bulk import bulk
from e2e_deploy.train.protocol.result import write_result
from tests import bags
from tests.cli.option_cases import CASES, FILM, TO, VERIFY, Refused
from tests.cli.test_run import clip
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.bulk.serial import without_ray
from tests.train.comparison.made_results import contender, result

CONFIGS = Path(__file__).parents[2] / "configs"


def commands():
    """Every command: its words and click's own."""
    for name, (module, _) in VERBS.items():
        command = importlib.import_module(f"e2e_deploy.cli.verbs.{module}").command
        inner = getattr(command, "commands", {})
        yield from ((f"{name} {word}", each) for word, each in inner.items())
        if not inner:
            yield name, command


def test_every_option_has_a_row_and_every_row_an_option():
    there = {
        name: {option.opts[0] for option in command.params if isinstance(option, click.Option)}
        for name, command in commands()
    }
    told = {name: set(rows) for name, rows in CASES.items()}
    missing = {name: left for name in there if (left := there[name] - told.get(name, set()))}
    assert not missing, f"options without a row in CASES: {missing}"
    gone = {name: left for name in told if (left := told[name] - there.get(name, set()))}
    assert not gone, f"rows in CASES for options that are not there: {gone}"


@dataclass
class Answer:
    """What a doubled function returns: every report at once, of nothing."""

    task: str = "depth"
    kinds: tuple = ("depth",)
    name: str = "data"
    num_images: int = 0
    num_written: int = 0
    num_kept: int = 0
    num_absent: int = 0
    num_samples: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    has_normals: bool = False
    ok: bool = True
    problem: str = ""
    splits: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=dict)
    bad: list = field(default_factory=list)
    suspicions: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def values(self):
        return {}

    def __iter__(self):
        return iter(())


class Double(ModuleType):
    """A module whose functions are recorded."""

    def __init__(self, name, answers):
        super().__init__(name)
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*given, **named):
            shown = {k: v for k, v in named.items() if not callable(v) and k != "stages"}
            self.calls.append(
                (name, [str(g) for g in given], {k: str(v) for k, v in shown.items()})
            )
            if not self.answers:
                raise E2EDeployError("it ends here")
            return Answer()

        return record


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the commands of the table name."""
    root = tmp_path_factory.mktemp("inputs")
    write_plain_bundle(root / "depth")
    write_plain_bundle(root / "normals", task="normals")
    rgb = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
    cv2.imwrite(str(root / "photo.png"), rgb[..., ::-1])
    depth = plain_depth(rgb)
    rows = [f"{u},{v},{1 + depth[v, u]}" for v in range(0, HW[0], 4) for u in range(0, HW[1], 4)]
    (root / "points.csv").write_text("\n".join(rows))
    clip(root / "film.mp4", count=3)
    cameras = [bags.stream([rgb], f"/{name}/image_raw") for name in ("camera", "rear")]
    bags.write_mcap(root / "log.mcap", [*cameras[0], *cameras[1]])
    shutil.copy(min(CONFIGS.glob("*.toml")), root / "run.toml")
    (root / "photos").mkdir()
    (root / "data").mkdir()
    (root / "one-photo").mkdir()
    shutil.copy(root / "photo.png", root / "one-photo")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        bulk(root / "one-photo", root / "depth", root / "photos-done")
    write_result(root / "made-results", result(contender()))
    return root


@pytest.fixture
def outcome(inputs, tmp_path, monkeypatch, capfd):
    """Runs a command in a folder of its own: what is left of it, without times."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    count = iter(range(100))

    def run(command, double="", answers=False):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        for path in inputs.iterdir():
            (folder / path.name).symlink_to(path)
        monkeypatch.chdir(folder)
        calls = []
        with monkeypatch.context() as patch:
            if double:
                module = Double(double, answers)
                patch.setitem(sys.modules, double, module)
                calls = module.calls
            capfd.readouterr()
            with pytest.raises(SystemExit) as stop:
                main(command)
        told = [re.sub(r"\d+\.\d+|\d{4}-\d\d-\d\d\S+", "#", text) for text in capfd.readouterr()]
        made = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
        files = {str(p.relative_to(folder)): p.read_bytes() for p in made}
        assert not double or calls, f"{command} called nothing: {told[1]}"
        return stop.value.code or 0, told, files, calls

    return run


ROWS = [
    pytest.param(case, id=f"{name} {option} {number}")
    for name, rows in CASES.items()
    for option, cases in rows.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize("case", ROWS)
def test_it_changes_what_comes_out_or_is_an_error(case, outcome):
    if isinstance(case, Refused):
        code, (_, said), files, _ = outcome(case.command)
        assert (code, files) == (2, {})
        assert case.said in said.splitlines()[-1]
    else:
        doubled = (case.double, case.answer)
        without, given = outcome(case.base, *doubled), outcome([*case.base, *case.given], *doubled)
        assert given != without


@pytest.mark.parametrize("command", [TO, [*FILM, "--out", "o", "--save", "npy"], VERIFY])
def test_the_same_command_gives_the_same_outcome(command, outcome):
    """Else a change would mean nothing."""
    assert outcome(command) == outcome(command)
