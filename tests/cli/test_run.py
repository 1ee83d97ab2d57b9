import json
import os
import socket
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest

from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.sources.pattern import read_number
from e2e_deploy.runtime.sources.source import SourceFrame
from tests.picture_files import blank_png
from tests.plain_bundle import HW, NOTE, plain_depth, write_plain_bundle
from tests.rtsp_server import RtspServer


def clip(path, count=6, hw=HW):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            rgb = np.full((*hw, 3), 20 * index % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def one_sentence(stderr):
    assert stderr.startswith("error: "), stderr
    assert stderr.count("\n") == 1, stderr
    return stderr


def test_a_picture(cli, bundle, picture, tmp_path):
    path, rgb = picture
    out = tmp_path / "out"
    code, stdout, stderr = cli(
        "run", path, "--bundle", bundle, "--out", out, "--save", "npy", "--save", "png16"
    )
    assert code == 0
    files = stdout.splitlines()
    assert sorted(files) == sorted(str(p) for p in out.iterdir())
    assert {p.name for p in out.iterdir()} == {
        "photo_depth.npy",
        "photo_depth.png",
        "photo_depth.json",
    }
    np.testing.assert_allclose(np.load(out / "photo_depth.npy"), plain_depth(rgb), atol=1e-6)
    assert f"note: {NOTE}" in stderr
    assert "1 frame with onnxruntime" in stderr
    assert json.loads((out / "photo_depth.json").read_text())["model"]["note"] == NOTE


def test_the_default_output_is_a_folder_here(cli, bundle, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, _ = cli("run", "photo.png", "--bundle", "bundle")
    assert code == 0
    assert {p.name for p in (tmp_path / "depth-out").iterdir()} == {
        "photo_depth.png",
        "photo_depth.json",
        "photo_depth_color.png",
    }
    assert all((tmp_path / line).exists() for line in stdout.splitlines())


def test_a_folder_of_mixed_sizes_says_how_they_were_fitted(cli, bundle, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name, (height, width) in {"a": HW, "b": (48, 100), "c": (90, 30)}.items():
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((height, width, 3), 128, np.uint8))
    code, _, stderr = cli("run", folder, "--bundle", bundle, "--out", out, "--save", "npy")
    assert code == 0
    shapes = {p.name: np.load(p).shape for p in out.glob("*.npy")}
    assert shapes == {
        "a_depth.npy": HW,
        "b_depth.npy": (48, 100),
        "c_depth.npy": (90, 30),
    }
    assert "frames of 48x100 (height x width) were fitted into the engine's 24x32" in stderr
    assert "--frame-size 48x100" in stderr


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_video_becomes_a_video(cli, bundle, tmp_path, side_by_side):
    source, out = clip(tmp_path / "in.mp4"), tmp_path / "new" / "out.mp4"
    options = ["--side-by-side"] if side_by_side else []
    code, stdout, _ = cli("run", source, "--bundle", bundle, "--out", out, *options)
    assert (code, stdout) == (0, f"{out}\n")
    with av.open(str(out)) as container:
        shapes = [(f.height, f.width) for f in container.decode(video=0)]
        assert container.metadata["comment"] == NOTE
        assert float(container.streams.video[0].average_rate) == 12
    assert shapes == [(24, 64 if side_by_side else 32)] * 6
    assert list(out.parent.iterdir()) == [out]


def test_json_and_a_limit(cli, bundle, tmp_path):
    code, stdout, _ = cli(
        "run", clip(tmp_path / "in.mp4"), "--bundle", bundle, "--out", tmp_path / "out",
        "--limit", "2", "--save", "npy", "--json",
    )  # fmt: skip
    report = json.loads(stdout)
    assert (code, report["frames"], report["interrupted"]) == (0, 2, False)
    assert [os.path.basename(f) for f in report["files"]] == [
        "in_000000_depth.npy",
        "in_000000_depth.json",
        "in_000001_depth.npy",
        "in_000001_depth.json",
    ]
    assert report["latency"]["count"] == 2


BAD_SOURCES = {
    "missing.jpg": lambda path: None,
    "text.jpg": lambda path: path.write_text("not a picture"),
    "empty.png": lambda path: path.write_bytes(b""),
    "dot.png": lambda path: cv2.imwrite(str(path), np.zeros((1, 1, 3), np.uint8)),
    "huge.png": lambda path: blank_png(path, 12000, 9000),
    "folder": lambda path: path.mkdir(),
    "text.mp4": lambda path: path.write_text("not a video"),
    "cut.mp4": lambda path: path.write_bytes(clip(path).read_bytes()[:900]),
    "77": lambda path: None,
}


@pytest.mark.parametrize("to_video", [False, True])
@pytest.mark.parametrize("name", BAD_SOURCES)
def test_sources_that_cannot_be_read(cli, bundle, tmp_path, monkeypatch, name, to_video):
    monkeypatch.chdir(tmp_path)
    BAD_SOURCES[name](tmp_path / name)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    out = "out.mp4" if to_video else "out"
    code, stdout, stderr = cli("run", name, "--bundle", "bundle", "--out", out)
    assert (code, stdout) == (5, "")
    assert name in one_sentence(stderr)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("sequence", [False, True])
def test_bad_pictures_are_left_out_said_and_counted(cli, bundle, tmp_path, sequence):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in (1, 4):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((*HW, 3), np.uint8))
    (folder / "2.png").write_text("not a picture")
    cv2.imwrite(str(folder / "3.png"), np.zeros((400, 5, 3), np.uint8))
    cv2.imwrite(str(folder / "0.png"), np.zeros((2000, 20, 3), np.uint8))  # and the first of all
    (folder / "._1.png").write_text("of another system")
    (folder / "notes.txt").write_text("not a picture")
    source = folder / "%d.png" if sequence else folder
    options = ["--bundle", bundle, "--out", out, "--save", "npy"]
    code, stdout, stderr = cli("run", source, *options, "--json")
    told = json.loads(stdout)
    assert (code, told["frames"], told["skipped"]) == (1, 2, 3)
    assert len(list(out.glob("*.npy"))) == 2
    assert f"left out: {folder}/2.png is not a picture" in stderr
    assert f"left out: {folder}/3.png is 5x400" in stderr
    assert "a frame of 2000x20 (height x width) is too narrow for an engine of 24x32" in stderr
    assert f"3 of the 5 pictures of {source} were left out" in stderr
    assert ("1 of 6 entries of" in stderr) is not sequence
    assert all(note in stderr.splitlines() for note in told["notes"])


def test_one_bad_picture_alone_is_an_unreadable_input(cli, bundle, tmp_path):
    (tmp_path / "b.png").write_text("not a picture")
    code, stdout, stderr = cli(
        "run", tmp_path / "b.png", "--bundle", bundle, "--out", tmp_path / "o"
    )
    assert (code, stdout) == (5, "")
    assert "b.png is not a picture" in one_sentence(stderr)
    assert not (tmp_path / "o").exists()


def test_a_bundle_that_is_none(cli, picture, tmp_path):
    code, _, stderr = cli("run", picture[0], "--bundle", tmp_path / "none")
    assert code == 5
    assert "is not a bundle" in one_sentence(stderr)


@pytest.mark.parametrize(
    "options",
    [
        ["--side-by-side"],
        ["--out", "a.mp4", "--save", "npy"],
    ],
)
def test_options_that_do_not_go_together(cli, bundle, picture, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = cli("run", picture[0], "--bundle", bundle, *options)
    assert (code, stdout) == (2, "")
    one_sentence(stderr)
    assert not (tmp_path / "depth-out").exists()


@pytest.mark.parametrize("option", ["--backend", "--colormap", "--axes", "--parity", "--decode"])
def test_names_that_do_not_exist(cli, tmp_path, option):
    """Said before anything is looked for: neither the source nor the bundle is there."""
    code, stdout, stderr = cli("run", "none.png", "--bundle", tmp_path / "none", option, "nobody")
    assert (code, stdout) == (2, "")
    assert f"Invalid value for '{option}': 'nobody' is not one of" in stderr


def test_show_without_a_display(cli, bundle, picture, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--show")
    assert code == 4
    assert "display" in one_sentence(stderr)


def test_an_output_that_cannot_be_written(cli, bundle, picture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deep", tmp_path / "file" / "a.mp4"):
        code, stdout, stderr = cli("run", picture[0], "--bundle", bundle, "--out", out)
        assert (code, stdout) == (1, "")
        assert "could not be written" in one_sentence(stderr)
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", "/proc/none")
    assert code == 1
    assert "could not be written" in one_sentence(stderr)


@pytest.mark.parametrize("out", ["out", "out.mp4"])
def test_a_full_disk(cli, bundle, tmp_path, full_disk, out, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), noise)
    with full_disk(3000):
        code, _, stderr = cli("run", folder, "--bundle", bundle, "--out", tmp_path / out)
    assert code == 1
    assert "File too large" in one_sentence(stderr)
    left = tmp_path / out
    assert not left.exists() or list(left.iterdir()) == []
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_ctrl_c_leaves_a_playable_video(cli, bundle, tmp_path, monkeypatch):
    def three_then_ctrl_c(self):
        for index in range(3):
            yield SourceFrame(np.zeros((*HW, 3), np.uint8), index, None, "in")
        raise KeyboardInterrupt

    source = clip(tmp_path / "in.mp4")
    monkeypatch.setattr(
        "e2e_deploy.runtime.sources.video_source.VideoSource.__iter__", three_then_ctrl_c
    )
    code, stdout, _ = cli("run", source, "--bundle", bundle, "--out", tmp_path / "out.mp4")
    assert (code, stdout) == (130, f"{tmp_path / 'out.mp4'}\n")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


LEAN = """
import sys
for name in ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors",
             "tensorrt", "tensorrt_rtx", "skimage", "scipy", "pillow_heif"):
    sys.modules[name] = None
from e2e_deploy.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_lean_install_gives_the_same_result(cli, depth_bundle, photo, tmp_path):
    """The bundle alone, elsewhere, without torch and diffusers."""
    import shutil

    moved = shutil.copytree(depth_bundle, tmp_path / "robot" / "bundle")
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    options = ["--device", "cpu", "--save", "npy"]
    assert cli(
        "run", tmp_path / "photo.png", "--bundle", depth_bundle, "--out", tmp_path / "a", *options
    )[0] == 0  # fmt: skip
    for arguments in (
        ["run", tmp_path / "photo.png", "--bundle", moved, "--out", tmp_path / "b", *options],
        ["verify", moved],
    ):
        done = subprocess.run(
            [sys.executable, "-c", LEAN, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "torch: not compared: the package 'torch' is not installed" in done.stderr
    first, second = (np.load(tmp_path / name / "photo_depth.npy") for name in "ab")
    np.testing.assert_allclose(first, second, atol=1e-6)
    refused = subprocess.run(
        [sys.executable, "-c", LEAN, "export"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 4
    checkpoint, said = (
        refused.stderr.splitlines()
    )  # it is looked at before torch, which takes seconds to load
    assert checkpoint.startswith("bundled:e2e-tiny-depth")
    assert "pip install 'e2e-deploy[export]'" in one_sentence(f"{said}\n")


def test_the_test_pattern_live(cli, bundle, tmp_path):
    code, stdout, stderr = cli(
        "run", "test:?size=24x32&fps=200&frames=20", "--bundle", bundle, "--out", tmp_path / "o",
        "--save", "npy", "--json",
    )  # fmt: skip
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["captured"] == 20 == report["frames"] + report["dropped"]
    assert report["sinks"][0]["written"] + report["sinks"][0]["dropped"] == report["frames"]
    assert set(report["stages"]) == {"fit", "engine", "finish", "age"}
    assert "frames captured" in stderr
    for file in (tmp_path / "o").glob("*.npy"):
        assert read_number(np.load(file)) == int(file.name.split("_")[1])


def test_a_sequence_is_a_video(cli, bundle, tmp_path):
    (tmp_path / "walk").mkdir()
    for number in (8, 9, 11):
        cv2.imwrite(str(tmp_path / f"walk/{number:04d}.png"), np.full((*HW, 3), number, np.uint8))
    (tmp_path / "walk/0010.txt").write_text("no picture")
    out = tmp_path / "out"
    code, _, _ = cli(
        "run", tmp_path / "walk/%04d.png", "--bundle", bundle, "--out", out, "--save", "npy"
    )
    assert code == 0
    values = [np.load(file).mean() * 255 for file in sorted(out.glob("*.npy"))]
    np.testing.assert_allclose(values, [8, 9, 11], atol=1e-3)
    assert (out / "walk_000002_depth.npy").exists()
    code, _, stderr = cli("run", tmp_path / "walk/%05d.png", "--bundle", bundle)
    assert code == 5
    assert "no file matches the sequence" in one_sentence(stderr)


def test_credentials_of_a_stream_are_shown_nowhere(cli, bundle, tmp_path):
    with RtspServer([[]], credentials="me:secret") as server:
        url = server.url.replace("secret", "hunter2")
        code, stdout, stderr = cli("run", url, "--bundle", bundle, "--out", tmp_path / "o")
    assert (code, stdout) == (5, "")
    assert "was refused" in one_sentence(stderr)
    assert "hunter2" not in stderr


def test_several_outputs_at_once(cli, bundle, tmp_path):
    source = clip(tmp_path / "in.mp4")
    outs = [tmp_path / name for name in ("a.mp4", "b.mkv", "c")]
    options = [word for out in outs for word in ("--out", out)]
    code, stdout, stderr = cli("run", source, "--bundle", bundle, *options, "--save", "npz")
    assert code == 0, stderr
    assert stdout.splitlines()[:3] == [str(outs[0]), str(outs[1]), f"{outs[1]}.json"]
    assert len(list(outs[2].glob("*.npz"))) == 6
    for out in outs[:2]:
        with av.open(str(out)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 6


def test_one_output_that_fails_leaves_the_others_and_the_exit_code_says_it(cli, bundle, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, stdout, stderr = cli(
        "run", clip(tmp_path / "in.mp4"), "--bundle", bundle,
        "--out", tmp_path / "a.mp4", "--out", tmp_path / "file" / "deep",
    )  # fmt: skip
    assert code == 1
    assert stdout == f"{tmp_path / 'a.mp4'}\n"
    assert stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'file/deep'} stopped early: ")


def test_outputs_that_do_not_go_together(cli, bundle, picture, tmp_path):
    normals = write_plain_bundle(tmp_path / "normals", task="normals")
    before = set(tmp_path.iterdir())
    for options, said, opened in (
        (["--save", "npy", "--out", "a.mp4"], "--out names none", bundle),
        (["--side-by-side", "--out", "b"], "--side-by-side needs", bundle),
        (["--out", "b", "--out", "b"], "twice", bundle),
        (["--out", "b", "--out", "c/../b"], "twice", bundle),
        (["--out", "b.npy", "--save", "npy", "--save", "exr"], "--save exr does not fit", bundle),
        (["--out", "b.npy", "--save", "exr"], "--save exr does not fit", bundle),
        (["--out", "b.png", "--save", "png16", "--save", "color"], "need a folder", bundle),
        (["--save", "ply", "--out", "b"], "(ply) needs metric depth", bundle),
        (["--out", "b.ply"], "(ply) needs metric depth", bundle),
        (["--out", tmp_path / "x.mp4", "--out", tmp_path / "x.mkv"], "holds depth", normals),
    ):
        code, stdout, stderr = cli("run", picture[0], "--bundle", opened, *options)
        assert (code, stdout) == (2, "")
        assert said in one_sentence(stderr)
    assert set(tmp_path.iterdir()) == before


def test_parity_is_watched(cli, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", clip(tmp_path / "in.mp4"), "--bundle", bundle, "--out", "o", "--json"]
    code, stdout, stderr = cli(*arguments, "--parity-every", "2", "--parity", "strict")
    assert code == 0, stderr
    told = json.loads(stdout)["parity"]
    assert (told["stored"], told["live"], told["outside"]) == (2, 0, 0)
    assert "plain" in told["no_live"]  # its checkpoint is not here
    assert "2 stored and 0 live frames compared, 0 outside" in stderr
    fine = OrtBackend.__call__
    monkeypatch.setattr(
        OrtBackend, "__call__", lambda self, frame, out=None: fine(self, frame) + 0.1
    )
    code, _, stderr = cli(*arguments, "--parity-every", "2")
    assert code == 0
    assert "2 outside the limit" in stderr
    code, stdout, stderr = cli(*arguments, "--parity-every", "2", "--parity", "strict")
    assert (code, stdout) == (3, "")
    assert "the engine is outside its limit" in one_sentence(stderr)


def test_a_view_in_the_browser(cli, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "test:?size=24x32&fps=100&frames=10"
    code, stdout, stderr = cli("run", source, "--bundle", bundle, "--view", "0")
    assert (code, stdout) == (0, ""), stderr
    assert stderr.startswith("view: http://127.0.0.1:")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]  # no folder was asked for
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, stderr = cli("run", source, "--bundle", bundle, "--view", port, "--out", "a.mp4")
    assert code == 4
    assert f"cannot use port {port}" in one_sentence(stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
