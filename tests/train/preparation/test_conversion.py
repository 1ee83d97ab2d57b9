import os

import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.preparation.conversion import read_statistics
from e2e_deploy.train.preparation.hypersim import prepare_hypersim
from tests.train.fixtures import break_hypersim, hypersim_file, write_hdf5, write_hypersim

SIZE = (24, 32)
STEM = "ai_001_001_cam_00_0002"


@pytest.fixture
def done(tmp_path):
    """Source and destination of a finished preparation."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    prepare_hypersim(write_hypersim(src), dst, size=SIZE)
    return src, dst


def contents(dst):
    return {path.relative_to(dst): path.read_bytes() for path in dst.rglob("*.*")}


def test_a_second_run_keeps_everything(done):
    src, dst = done
    before = contents(dst)
    times = {path: path.stat().st_mtime_ns for path in dst.rglob("*.png")}
    report = prepare_hypersim(src, dst, size=SIZE)
    assert (report.num_written, report.num_kept) == (0, 3)
    assert contents(dst) == before
    assert times == {path: path.stat().st_mtime_ns for path in dst.rglob("*.png")}


@pytest.mark.parametrize("lost", ["rgb", "depth", "normals", "line", "torn line"])
def test_an_incomplete_sample_is_done_again(done, lost):
    src, dst = done
    before = contents(dst)
    table = dst / "train.csv"
    if lost == "line":
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    elif lost == "torn line":
        table.write_text(table.read_text()[:-5])
    else:
        (dst / "train" / lost / f"{STEM}.png").unlink()
    report = prepare_hypersim(src, dst, size=SIZE)
    assert (report.num_written, report.num_kept) == (1, 2)
    assert contents(dst) == before


def test_another_size_does_everything_again(done):
    src, dst = done
    assert prepare_hypersim(src, dst, size=(12, 16)).num_written == 3
    assert FolderDataset(dst).read(0).rgb.shape == (12, 16, 3)


def test_a_repaired_source_is_picked_up(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    write_hypersim(src)
    break_hypersim(src, 2, "missing")
    assert len(prepare_hypersim(src, dst, size=SIZE).bad) == 1
    write_hypersim(src)
    report = prepare_hypersim(src, dst, size=SIZE)
    assert (report.num_written, report.num_kept, report.bad) == (1, 2, ())


def test_workers_write_the_same_bytes(done, tmp_path):
    src, dst = done
    break_hypersim(src, 1, "zeros")
    seen = []
    report = prepare_hypersim(
        src, tmp_path / "again", size=SIZE, workers=2, on_progress=lambda *step: seen.append(step)
    )
    assert [bad.name for bad in report.bad] == ["ai_001_001_cam_00_0001"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    expected = {
        path: content
        for path, content in contents(dst).items()
        if "cam_00_0001" not in path.name and path.suffix == ".png"
    }
    got = contents(tmp_path / "again")
    assert {path: got[path] for path in got if path.suffix == ".png"} == expected
    assert list(read_statistics(tmp_path / "again", "train")) == [STEM]


def test_a_failed_write_leaves_no_file_behind(done, monkeypatch):
    src, dst = done
    target = dst / "train" / "rgb" / f"{STEM}.png"
    target.unlink()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(E2EDeployError, match="could not be written: disk full"):
        prepare_hypersim(src, dst, size=SIZE)
    assert not target.exists()
    assert not list(dst.rglob(".*"))


def test_a_sample_that_turned_bad_is_reported_on_the_next_run(done):
    src, dst = done
    write_hdf5(hypersim_file(src, 2, "color"), np.zeros((48, 64), np.float32))
    (dst / "train" / "rgb" / f"{STEM}.png").unlink()
    report = prepare_hypersim(src, dst, size=SIZE)
    assert "unexpected shape (48, 64)" in report.bad[0].reason
