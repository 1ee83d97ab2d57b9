"""What ``run --out`` names, and that it never takes the place of what is read."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest

from tests.cli.test_run import clip, one_sentence
from tests.plain_bundle import HW, plain_depth


def hashes(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "bundle" not in p.parts}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("depth.npy", []),
        ("depth.npz", []),
        ("depth.exr", []),
        ("depth.png", []),
        ("color.PNG", ["--save", "color"]),
        ("2025-01-31T10:20:30.npy", []),
        ("100%d of it.npy", []),
        ("-depth.npy", []),
        ("new/folder/depth.npy", ["--save", "npy"]),
    ],
)
def test_one_pictures_file(cli, bundle, picture, tmp_path, monkeypatch, name, options):
    monkeypatch.chdir(tmp_path)
    path, rgb = picture
    code, stdout, stderr = cli("run", path, "--bundle", bundle, f"--out={name}", *options)
    assert code == 0, stderr
    sidecar = f"{name}.json"
    coloured = "color" in options
    assert stdout.splitlines() == [name] if coloured else [name, sidecar]
    assert os.path.isfile(name)
    assert os.path.exists(sidecar) is not coloured
    if name.endswith(".npy"):
        np.testing.assert_allclose(np.load(name), plain_depth(rgb), atol=1e-6)
        told = json.loads((tmp_path / sidecar).read_text())
        assert told["npy"]["file"] == os.path.basename(name)
    elif name.lower().endswith(".png"):
        stored = cv2.imread(name, cv2.IMREAD_UNCHANGED)
        assert stored.dtype == (np.uint8 if coloured else np.uint16)


def test_what_came_before_a_file_broke_off_is_kept_and_named(cli, bundle, tmp_path):
    path, out = clip(tmp_path / "a.mkv", count=400), tmp_path / "o.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    code, stdout, stderr = cli("run", path, "--bundle", bundle, "--out", out)
    assert (code, stdout) == (5, f"{out}\n")
    assert "is cut off" in stderr.splitlines()[-1]
    with av.open(str(out)) as video:
        assert 20 < sum(1 for _ in video.decode(video=0)) < 400


@pytest.mark.parametrize("name", ["10:20:30.mp4", "10:20:30.mkv", "50%03d.mp4", "-x.mkv"])
def test_a_videos_file_whatever_its_name_holds(cli, bundle, picture, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, f"--out={name}")
    assert code == 0, stderr
    assert os.path.isfile(name)


@pytest.mark.parametrize(
    "suffix", [".mov", ".avi", ".webm", ".jpg", ".tiff", ".gif", ".csv", ".bag"]
)
def test_a_file_of_another_kind_is_no_folder(cli, bundle, picture, tmp_path, suffix):
    out = tmp_path / f"depth{suffix}"
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", out)
    assert code == 2
    assert f"{suffix} is not written; files are .exr, .npy" in stderr
    assert ".mp4 (colours)" in one_sentence(stderr)
    assert not out.exists()
    out.mkdir()  # a folder that is there is a folder
    assert cli("run", picture[0], "--bundle", bundle, "--out", out)[0] == 0


def test_one_file_for_several_pictures_or_a_video(cli, bundle, picture, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(picture[0], folder / name)
    for source, what in ((folder, "2 pictures"), (clip(tmp_path / "in.mp4"), "a video")):
        code, _, stderr = cli("run", source, "--bundle", bundle, "--out", tmp_path / "depth.png")
        assert code == 2
        assert f"depth.png is one picture, and {source} is {what}" in one_sentence(stderr)
    (folder / "b.png").unlink()
    assert cli("run", folder, "--bundle", bundle, "--out", tmp_path / "depth.png")[0] == 0


@pytest.mark.parametrize("by", ["name", "link", "hard link", "folder link"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".png"])
def test_an_output_is_never_the_source(cli, bundle, picture, tmp_path, by, suffix):
    source = tmp_path / "real" / f"a{suffix}"
    source.parent.mkdir()
    shutil.copy(picture[0], source) if suffix == ".png" else clip(source)
    out = source
    if by == "link":
        out = tmp_path / f"b{suffix}"
        out.symlink_to(source)
    elif by == "hard link":
        out = tmp_path / f"b{suffix}"
        os.link(source, out)
    elif by == "folder link":
        (tmp_path / "f").symlink_to("real")
        out = tmp_path / "f" / f"a{suffix}"
    before = hashes(tmp_path)
    for given, place in ((source, out), (out, source)):
        code, _, stderr = cli("run", given, "--bundle", bundle, "--out", place)
        assert code == 2
        assert "would take the place of" in one_sentence(stderr)
    assert hashes(tmp_path) == before


def test_a_way_through_a_folder_that_is_not_there_yet(cli, bundle, picture, tmp_path):
    source = clip(tmp_path / "a.mp4")
    before = source.read_bytes()
    code, _, stderr = cli("run", source, "--bundle", bundle, "--out", tmp_path / "new/../a.mp4")
    assert code == 2
    assert "would take the place of" in one_sentence(stderr)
    assert source.read_bytes() == before
    folder = picture[0].parent
    (folder / f"{picture[0].stem}_depth.png").write_bytes(b"a true depth")
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", folder / "new/..")
    assert code == 2
    assert "is there already" in one_sentence(stderr)


def test_the_name_of_a_recording_in_progress_is_no_ones_source(cli, bundle, tmp_path):
    source = clip(tmp_path / "a.partial.mp4")
    before = source.read_bytes()
    assert cli("run", source, "--bundle", bundle, "--out", tmp_path / "a.mp4")[0] == 0
    assert source.read_bytes() == before


def test_the_metric_points_are_an_input_too(cli, bundle, picture, tmp_path):
    points = tmp_path / "points.npy"
    rows = [(u, v, 1 + plain_depth(picture[1])[v, u]) for v in range(9) for u in range(9)]
    np.save(points, rows)
    code, _, stderr = cli(
        "run", picture[0], "--bundle", bundle, "--metric-points", points, "--out", points
    )
    assert code == 2
    assert f"would take the place of {points}" in one_sentence(stderr)
    np.testing.assert_array_equal(np.load(points), rows)


def test_the_bundle_is_an_input_too(cli, bundle, picture):
    (reference,) = (bundle / "reference").glob("*.npz")
    before = reference.read_bytes()
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", reference)
    assert code == 2
    assert "would take the place of" in one_sentence(stderr)
    assert reference.read_bytes() == before


@pytest.mark.parametrize("sequence", [False, True])
def test_a_result_never_takes_a_pictures_place(cli, bundle, tmp_path, sequence):
    folder = tmp_path / "p"
    folder.mkdir()
    names = ("p_000000_depth.png", "p_000001_depth.png") if sequence else ("a.jpg", "a_depth.png")
    for name in names:
        cv2.imwrite(str(folder / name), np.full((*HW, 3), 90, np.uint8))
    before = hashes(tmp_path)
    source = folder / "p_%06d_depth.png" if sequence else folder
    code, _, stderr = cli("run", source, "--bundle", bundle, "--out", folder)
    assert code == 2
    assert "would take the place of" in one_sentence(stderr)
    assert hashes(tmp_path) == before


def test_beside_the_source_nothing_is_replaced(cli, bundle, picture, tmp_path):
    """The true depth of a data set, say: it is no source, and it is the user's."""
    truth = tmp_path / "photo_depth.png"
    truth.write_bytes(b"measured")
    command = ["run", picture[0], "--bundle", bundle, "--out", tmp_path]
    code, _, stderr = cli(*command)
    assert code == 2
    assert f"{truth} is there already, in the folder of the sources" in one_sentence(stderr)
    assert truth.read_bytes() == b"measured"
    truth.unlink()
    assert cli(*command)[0] == 0
    elsewhere = ["run", picture[0], "--bundle", bundle, "--out", tmp_path / "o"]
    assert [cli(*elsewhere)[0] for _ in range(2)] == [0, 0]  # results of before are replaced


def test_beside_the_source_our_own_results_are_replaced(cli, bundle, picture, tmp_path):
    command = ["run", picture[0], "--bundle", bundle, "--out", tmp_path]
    assert [cli(*command)[0] for _ in range(2)] == [0, 0]
    assert cli(*command, "--save", "npy")[0] == 0  # the sidecar now tells of this one alone
    sidecar = tmp_path / "photo_depth.json"
    assert list(json.loads(sidecar.read_text())["files"]) == ["photo_depth.npy"]
    code, _, stderr = cli(*command)
    assert code == 2
    assert "photo_depth.png is there already" in one_sentence(stderr)
    assert cli(*command, "--save", "npy")[0] == 0
    np.save(tmp_path / "photo_depth.npy", np.ones(HW, np.float32))  # measured, under our name
    before = hashes(tmp_path)
    code, _, stderr = cli(*command, "--save", "npy")
    assert code == 2
    assert "photo_depth.npy is there already" in one_sentence(stderr)
    assert hashes(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": []}', '{"files": {"photo_depth.npy": 1}}', '{"files": {"/": ""}}']
)
def test_a_sidecar_of_others_makes_nothing_ours(cli, bundle, picture, tmp_path, text):
    (tmp_path / "photo_depth.json").write_text(text)
    (tmp_path / "photo_depth.npy").write_bytes(b"measured")
    before = hashes(tmp_path)
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", tmp_path, "--save", "npy")
    assert code == 2
    assert "photo_depth.npy is there already" in one_sentence(stderr)
    assert hashes(tmp_path) == before


def test_pictures_that_differ_by_case_keep_apart(cli, bundle, picture, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("A.png", "a.png", "a.jpg"):
        shutil.copy(picture[0], folder / name)
    code, _, _ = cli("run", folder, "--bundle", bundle, "--out", tmp_path / "o", "--save", "npy")
    assert code == 0
    written = [p.name.lower() for p in (tmp_path / "o").glob("*.npy")]
    assert len(written) == len(set(written)) == 3


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGHUP"])
def test_a_recording_is_finished_when_it_is_ended_from_outside(bundle, tmp_path, ending):
    options = ["--bundle", bundle, "--device", "cpu", "--out", tmp_path / "a.mkv"]
    with subprocess.Popen(
        [*(sys.executable, "-m", "e2e_deploy", "run", "test:?size=24x32&fps=50"), *options],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(getattr(signal, ending), signal.SIG_DFL),
    ) as process:
        deadline = 40 * 20
        while deadline and not any(p.stat().st_size > 4000 for p in tmp_path.glob("a*.mkv")):
            deadline -= 1
            time.sleep(0.05)
        process.send_signal(getattr(signal, ending))
        process.send_signal(getattr(signal, ending))  # a terminal that closes sends two
        assert process.wait(20) == 130
    names = sorted(p.name for p in tmp_path.glob("a*"))
    assert names == ["a.mkv", "a.mkv.json", "a.mkv.times.txt"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.npy", "a"])
def test_a_device_or_a_pipe_is_no_place_for_results(cli, bundle, picture, tmp_path, name):
    os.mkfifo(tmp_path / name)
    before = os.lstat(tmp_path / name)
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", tmp_path / name)
    assert code == 1
    assert f"{name} could not be written: it is " in one_sentence(stderr)
    assert os.lstat(tmp_path / name) == before


def test_a_format_that_nothing_takes_is_refused(cli, bundle, picture):
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--view", "0", "--save", "npy")
    assert code == 2
    assert "--save needs --out" in one_sentence(stderr)


@pytest.mark.parametrize(
    "out", ["rtmp://u:s3cret@h/x", "http://h/x.mp4?key=s3cret", "file:///tmp/x.mp4", "srt://h:9"]
)
def test_an_address_is_no_folder(cli, bundle, picture, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    code, stdout, stderr = cli("run", picture[0], "--bundle", bundle, "--out", out)
    assert (code, stdout) == (2, "")
    assert "is no address that results go to" in one_sentence(stderr)
    assert "cret" not in stderr
    assert set(tmp_path.iterdir()) == before


def test_a_receiver_that_is_not_there_is_a_sentence_without_its_password(cli, bundle, picture):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"rtsp://admin:s3cret@127.0.0.1:{port}/s3cret"
    code, stdout, stderr = cli("run", picture[0], "--bundle", bundle, "--out", address)
    assert (code, stdout) == (1, "")
    assert f"takes the stream at rtsp://***@127.0.0.1:{port}/***: " in one_sentence(stderr)
    assert "cret" not in stderr
