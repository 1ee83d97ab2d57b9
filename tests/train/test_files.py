import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.train.files import read_picture, read_rgb, write_bytes, write_picture


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_pictures_survive(tmp_path, dtype, shape):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / "made" / "p.png"
    write_picture(path, picture)
    got = read_picture(path)
    assert got.dtype == dtype
    assert np.array_equal(got, picture)


def test_pictures_are_rgb(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert read_rgb(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_what_is_no_frame_is_named(tmp_path):
    write_picture(tmp_path / "gray.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"gray\.png: expected 8-bit RGB .* got uint8 \(4, 4\)"):
        read_rgb(tmp_path / "gray.png")
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"alpha\.png: has 4 channels"):
        read_rgb(tmp_path / "alpha.png")
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file"):
        read_rgb(tmp_path / "none.png")


def test_writing_replaces_whole_files(tmp_path):
    write_bytes(tmp_path / "f", b"old and long")
    write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.timeout(10)
def test_only_regular_files_are_read_and_links_are_not_written_through(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path, said in ((tmp_path / "a.png", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(DataError, match=f"it is {said}, not a regular file"):
            read_picture(path)
    (tmp_path / "victim").write_text("precious")
    for name in ("a.csv", f".b.csv.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to("victim")
    for name in ("a.csv", "b.csv"):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "victim").read_text() == "precious"
    with pytest.raises(E2EDeployError, match="it is a device, not a file"):
        write_bytes(Path("/dev/null"), b"new")
