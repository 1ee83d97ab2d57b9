"""Every example, run as its users run it, on a bundle whose result is known."""

import inspect
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from tests.plain_bundle import HW, plain_depth

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 50


@pytest.fixture
def photo(tmp_path, rng):
    """A PNG of the engine's size and its RGB."""
    rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path, rgb


def test_they_are_short_and_listed():
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= LONGEST
        assert f"`{path.name}" in page
        assert "from e2e_deploy" not in path.read_text()


def test_picture(run, bundle, photo):
    path, rgb = photo
    assert str(path.with_suffix(".depth.png")) in run("picture.py", path, bundle)
    stored = cv2.imread(str(path.with_suffix(".depth.png")), cv2.IMREAD_UNCHANGED)
    assert np.abs(stored / 65535 - plain_depth(rgb)).max() < 1e-5


def test_live(run, bundle):
    out = run("live.py", f"test:?size={HW[0]}x{HW[1]}&fps=0&frames=5", bundle)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["0", "1", "2", "3", "4"]
    assert {line.split()[1] for line in lines[:5]} <= {"left", "middle", "right"}
    assert lines[5].startswith("5 frames, 0 left out; onnxruntime")


def test_server(bundle, photo):
    path, rgb = photo
    program = [sys.executable, EXAMPLES / "server.py", "0", bundle]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            clients = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(3)]
            data = path.read_bytes()
            for client in clients:
                client.sendall(len(data).to_bytes(4, "big") + data)
            for client in clients:
                with client, client.makefile("rb") as stream:
                    answer = np.frombuffer(stream.read(), dtype=np.uint8)
                depth = cv2.imdecode(answer, cv2.IMREAD_UNCHANGED) / 65535
                assert np.abs(depth - plain_depth(rgb)).max() < 1e-5
        finally:
            server.kill()


def test_serve_client(run, bundle, photo):
    """NVIDIA's client against our server; tests/runtime/serve has the protocol itself."""
    pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    path, rgb = photo
    wanted = plain_depth(rgb)
    with e2e.ModelServer(bundle, port=0) as server:
        address = server.url.removeprefix("http://")
        out = run("serve_client.py", address, server.name, path)
        said = f"depth {list(HW)}: {wanted.min():.4f} to {wanted.max():.4f}"
        assert out.strip() == said
        with pytest.raises(SystemExit, match="has no model other"):
            run("serve_client.py", address, "other", path)


def test_export(run, bundle, photo, tmp_path, monkeypatch):
    """Exports are tested elsewhere; this one takes no time, and what it is asked for must be what it takes."""
    takes = inspect.signature(e2e.export_bundle)

    def export(*arguments, **named):
        asked = takes.bind(*arguments, **named).arguments
        assert asked["frame_sizes"] == [HW]
        return e2e.open_bundle(shutil.copytree(bundle, asked["out"]))

    monkeypatch.setattr(e2e, "export_bundle", export)
    out = run("export.py", "owner/name", photo[0], tmp_path / "exported")
    assert "onnxruntime: relative error" in out
    assert "inside its limit" in out
    files = [Path(line) for line in out.splitlines() if line.startswith(str(tmp_path))]
    (numbers,) = (file for file in files if file.suffix == ".npy")
    assert np.abs(np.load(numbers) - plain_depth(photo[1])).max() < 1e-5


def test_point_cloud(run, bundle, photo, tmp_path, rng):
    path, rgb = photo
    depth = plain_depth(rgb)
    points = tmp_path / "points.csv"
    rows, columns = np.divmod(np.arange(0, depth.size, 7), depth.shape[1])
    metres = 1 + 4 * depth[rows, columns]
    np.savetxt(points, np.stack([columns, rows, metres], axis=1), delimiter=",")
    out = run("point_cloud.py", path, points, "30,30,16,12", bundle)
    assert f"{1 + 4 * depth.min():.2f} to {1 + 4 * depth.max():.2f} m" in out
    assert (tmp_path / "photo.ply").read_bytes().startswith(b"ply")
    np.savetxt(points, rng.uniform(1, 20, (30, 3)), delimiter=",")
    with pytest.raises(SystemExit, match="the metric points do not fit the picture"):
        run("point_cloud.py", path, points, "30,30,16,12", bundle)
