import os

import cv2
import numpy as np
import pytest
from PIL import Image

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.runtime.sources.test_source import refused


@pytest.fixture
def picture():
    return Image.new("RGB", (40, 30), (200, 30, 30))


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"holds no pictures \(.png, .jpg")
    refused(tmp_path / "missing.jpg", "does not exist; a source is a picture, a folder")
    refused(tmp_path / ("a" * 300), "does not exist")
    refused("\u00b2", "does not exist")
    refused("-1", "does not exist")
    refused("", "the source is an empty text", UsageError)


def test_a_camera_that_does_not_exist(capfd):
    refused("77", "there is no camera 77 here, or another program holds it")
    assert capfd.readouterr().err == ""


def test_a_name_that_exists_is_a_file_before_it_is_a_camera_or_a_pattern(
    tmp_path, monkeypatch, picture
):
    monkeypatch.chdir(tmp_path)
    for folder in ("2024", "test:", "in%03d"):
        os.mkdir(folder)
        picture.save(f"{folder}/a.png")
        assert [frame.name for frame in open_source(folder)] == ["a"]
    picture.save("7", "PNG")
    picture.save("a%02d.png")
    assert [frame.name for frame in open_source("7")] == ["7"]
    assert [frame.name for frame in open_source("a%02d.png")] == ["a%02d"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.jp2", "JPEG2000"),
        ("a.ppm", "PPM"),
        ("a.pnm", "PPM"),
        ("a.avif", "AVIF"),
        ("a", "PNG"),
        ("a.mp4", "WEBP"),
        ("a.2024-01-31", "TIFF"),
    ],
)
def test_a_picture_of_any_name(tmp_path, picture, name, kind):
    picture.save(tmp_path / name, kind)
    source = open_source(str(tmp_path / name))
    assert isinstance(source, PictureSource)
    assert [frame.hw for frame in source] == [(30, 40)]


def test_a_moving_gif_is_a_video(tmp_path, picture):
    others = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "green")]
    picture.save(tmp_path / "a.gif", save_all=True, append_images=others)
    source = open_source(str(tmp_path / "a.gif"))
    assert isinstance(source, VideoSource)
    assert len(list(source)) == 3


def test_what_is_neither_says_what_was_tried(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture, no video, but text of some length")
    refused(tmp_path / "notes.txt", r"begins as no picture does \(JPEG, PNG, .*tried as a video: ")
    (tmp_path / "a.mp4").write_text("no picture, no video, but text of some length")
    refused(tmp_path / "a.mp4", "a.mp4 is not a video that can be decoded")
    np.save(tmp_path / "depth.npy", np.zeros((30, 40)))
    refused(tmp_path / "depth.npy", "begins as no picture does")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "cannot be read: it is a named pipe, not a regular file")
    refused("/dev/zero", "it is a device")


def test_a_picture_is_upright_rgb(tmp_path):
    bgr = np.zeros((20, 30, 3), np.uint8)
    bgr[..., 2] = 200
    cv2.imwrite(str(tmp_path / "a.png"), bgr)
    (frame,) = open_source(str(tmp_path / "a.png"))
    assert frame.rgb[0, 0].tolist() == [200, 0, 0]
