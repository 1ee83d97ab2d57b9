import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.picture_source import result_names
from e2e_deploy.runtime.sources.uris import open_source
from tests.picture_files import blank_png


def write(path, picture):
    assert cv2.imwrite(str(path), picture)
    return path


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_picture_is_rgb(tmp_path, rgb):
    path = write(tmp_path / "a.png", rgb[..., ::-1])
    source = open_source(str(path))
    (frame,) = source
    np.testing.assert_array_equal(frame.rgb, rgb)
    assert (frame.index, frame.pts_s, frame.name) == (0, None, "a")
    assert (source.files, source.skipped, source.notes) == ([path], 0, [])


def test_a_folder_in_the_order_of_its_names(tmp_path, rgb):
    for name, size in (("b.png", 40), ("a.JPG", 20), ("c.bmp", 33)):
        write(tmp_path / name, np.zeros((size, 50, 3), np.uint8))
    source = open_source(str(tmp_path))
    assert (source.total, source.is_video, source.notes) == (3, False, [])
    frames = list(source)
    assert [f.name for f in frames] == ["a", "b", "c"]
    assert [f.rgb.shape for f in frames] == [(20, 50, 3), (40, 50, 3), (33, 50, 3)]


def test_what_is_no_picture_by_its_name_is_counted_and_hidden_files_are_nothing(tmp_path, rgb):
    write(tmp_path / "a.png", rgb)
    for name in ("._a.png", ".hidden.png", ".DS_Store", "notes.txt", "b.txt", "clip.mp4", "z.xmp"):
        (tmp_path / name).write_text("x")
    (tmp_path / "deeper").mkdir()
    source = open_source(str(tmp_path))
    assert [f.name for f in source] == ["a"]
    (note,) = source.notes
    assert note == (
        f"5 of 6 entries of {tmp_path} are no pictures by their names and were not read: "
        "b.txt, clip.mp4, deeper, ..."
    )
    assert source.skipped == 0


@pytest.mark.timeout(10)
def test_one_picture_that_cannot_be_used_is_left_out_and_said(tmp_path, rgb):
    for name in ("a.png", "z.png"):
        write(tmp_path / name, rgb)
    whole = write(tmp_path / "cut.jpg", rgb).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    blank_png(tmp_path / "huge.png", 30000, 30000)
    write(tmp_path / "narrow.png", np.zeros((400, 8, 3), np.uint8))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("I am text")
    source = open_source(str(tmp_path))
    assert [(f.name, f.index) for f in source] == [("a", 0), ("z", 9)]
    assert (source.total, source.skipped) == (10, 8)
    assert [Path(note.split()[2]).name for note in source.notes] == [
        *("cut.jpg", "empty.png", "folder.png", "huge.png", "link.png", "narrow.png", "pipe.png"),
        "text.png",
    ]
    assert all(note.startswith("left out: ") for note in source.notes)


def test_a_folder_may_be_read_again(tmp_path, rgb):
    write(tmp_path / "a.png", rgb)
    (tmp_path / "b.png").write_text("text")
    source = open_source(str(tmp_path))
    for _ in range(3):
        assert [frame.name for frame in source] == ["a"]
        assert source.skipped == 1


def test_a_folder_without_a_picture_that_can_be_used(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    source = open_source(str(tmp_path))
    with pytest.raises(
        SourceError, match="none of the 2 pictures of .* can be used; left out: .*b.png"
    ):
        list(source)


def test_a_sequence_is_one_video_and_goes_on_after_a_bad_picture(tmp_path, rgb):
    for number in (1, 2, 10):
        write(tmp_path / f"f{number:03d}.png", rgb)
    (tmp_path / "f002.png").write_text("text")
    (tmp_path / "f4.png").write_text("another kind of name")
    source = open_source(str(tmp_path / "f%03d.png"))
    assert [(f.name, f.index) for f in source] == [(tmp_path.name, 0), (tmp_path.name, 2)]
    assert (source.is_video, source.total, source.skipped) == (True, 3, 1)
    with pytest.raises(SourceError, match="no file matches the sequence"):
        open_source(str(tmp_path / "g%d.png"))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["A.png", "a.png"], ["A.png", "a.png-2"]),
        (["a.jpg", "a.png", "a.png.jpg"], ["a.jpg", "a.png", "a.png-2"]),
        (["A.png", "a.png", "a.png-2.jpg"], ["A.png", "a.png-3", "a.png-2"]),
        (["photo.v1.png", "photo.v2.png"], ["photo.v1", "photo.v2"]),
        (["n" * 250 + ".png", "n" * 251 + ".png"], ["n" * 220, "n" * 220 + "-2"]),
        (["\u00fc" * 120 + ".png"], ["\u00fc" * 110]),
        (["caf\u00e9.png", "cafe\u0301.png"], ["caf\u00e9.png", "cafe\u0301.png-2"]),
    ],
)
def test_no_two_pictures_share_a_name(files, names):
    assert result_names([Path(file) for file in files]) == names


def test_names_for_one_picture_very_often_take_no_longer_each():
    def seconds(count):
        paths, start = [Path("a.png"), Path("b.png")] * count, time.perf_counter()
        names = result_names(paths)
        assert len(set(names)) == 2 * count
        return time.perf_counter() - start

    assert seconds(4000) < 60 * min(seconds(400) for _ in range(3))
