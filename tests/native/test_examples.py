"""examples/native: built against the installed library as users build them, and run beside Python."""

import os
import subprocess

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.runtime.steps.steady import Stabiliser
from tests.native.build import FOLDER, ROOT, alone, require_tools, run, skip
from tests.plain_bundle import HW, plain_depth, write_plain_bundle

STRICT = "-Wall -Wextra -Wpedantic -Werror"


@pytest.fixture(scope="module")
def programs(native_prefix):
    """Folder of the built programs."""
    require_tools("cmake", "g++", "make")
    folder = FOLDER / "examples"
    with alone("examples"):
        run(
            *("cmake", "-S", ROOT / "examples" / "native", "-B", folder),
            f"-DCMAKE_PREFIX_PATH={native_prefix}",
            *(f"-DCMAKE_C_FLAGS={STRICT}", f"-DCMAKE_CXX_FLAGS={STRICT}"),
        )
        run("cmake", "--build", folder)
    return folder


@pytest.fixture
def started(programs, native_onnxruntime):
    """started(program, *arguments): the ended process, with what it said."""

    def start(program, *arguments):
        if not (programs / program).is_file():
            skip("OpenCV for C++ is missing: apt-get install libopencv-dev")
        return subprocess.run(
            [programs / program, *arguments],
            env=os.environ | {"E2E_DEPLOY_ONNXRUNTIME": str(native_onnxruntime)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


def ppm(path, rgb, comment=b""):
    height, width = rgb.shape[:2]
    path.write_bytes(b"P6\n%s%d %d\n255\n" % (comment, width, height) + rgb.tobytes())
    return path


class TestC:
    @pytest.mark.parametrize("frame_hw", [(480, 640), (333, 500)])
    def test_pythons_numbers_to_the_last_bit(self, started, tmp_path, frame_hw):
        rgb = reference_frames(frame_hw, 1)[0]
        out = tmp_path / "depth.pfm"
        done = started("depth", e2e.READY_BUNDLE, ppm(tmp_path / "photo.ppm", rgb), out)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{frame_hw[1]}x{frame_hw[0]}; onnxruntime on CPU" in done.stdout
        with e2e.load(e2e.READY_BUNDLE, backend="onnxruntime", device="cpu") as engine:
            expected = engine.predict(rgb)
        assert cv2.imread(str(out), cv2.IMREAD_UNCHANGED).tobytes() == expected.tobytes()

    def test_sixteen_bits(self, started, bundle, rng, tmp_path):
        rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
        rgb[0, 0], rgb[0, 1] = 0, 255  # both ends of the range
        photo = ppm(tmp_path / "photo.ppm", rgb, comment=b"# made by 1 painter\n#\n")
        done = started("depth", bundle, photo, tmp_path / "depth.pgm")
        assert done.returncode == 0, done.stderr
        stored = cv2.imread(str(tmp_path / "depth.pgm"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16
        assert np.abs(stored - 65535 * plain_depth(rgb)).max() <= 0.51

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"P6",
            b"P6\n# a comment without an end",
            b"P5\n2 2\n255\n" + bytes(4),
            b"P6\n2 2\n65535\n" + bytes(24),
            b"P6\n2 2\n255\n" + bytes(11),
            b"P6\n0 2\n255\n",
            b"P6\n-2 2\n255\n",
            b"P6\n99999999999999999999 2\n255\n",
            b"P6\n100000 100000\n255\n",
        ],
    )
    def test_what_is_no_ppm(self, started, bundle, tmp_path, content):
        photo = tmp_path / "photo.ppm"
        photo.write_bytes(content)
        done = started("depth", bundle, photo, tmp_path / "depth.pfm")
        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == f"{photo} is no binary PPM of 8 bits (P6), or cannot be read\n"
        assert not (tmp_path / "depth.pfm").exists()

    def test_errors_are_pythons_codes_and_sentences(self, started, bundle, rng, tmp_path):
        photo = ppm(tmp_path / "photo.ppm", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
        model = next(bundle.glob("*.onnx"))
        model.write_bytes(model.read_bytes()[:-1] + b"!")
        for folder in (bundle, tmp_path / "nothing"):
            done = started("depth", folder, photo, tmp_path / "depth.pfm")
            with pytest.raises(e2e.BundleError) as error:
                e2e.open_bundle(folder)
            assert (done.returncode, done.stderr) == (5, f"{error.value}\n")

    def test_what_it_does_not_take(self, started, bundle, rng, tmp_path):
        photo = ppm(tmp_path / "photo.ppm", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
        done = started("depth", bundle)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")
        for other in ({"batch": 2}, {"task": "normals"}):
            folder = write_plain_bundle(tmp_path / "-".join(other), **other)
            done = started("depth", folder, photo, tmp_path / "depth.pfm")
            assert (done.returncode, "one map of one frame" in done.stderr) == (2, True)
        done = started("depth", bundle, photo, tmp_path / "no" / "depth.pfm")
        assert (done.returncode, "cannot be written" in done.stderr) == (1, True)


def colours(depth):
    grey = np.clip(np.rint(255 - 255 * depth.astype(np.float64)), 0, 255).astype(np.uint8)
    return cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)


class TestOpenCv:
    def test_a_picture(self, started, bundle, rng, tmp_path):
        rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photo.png"), rgb[..., ::-1])
        done = started("depth_opencv", bundle, tmp_path / "photo.png", tmp_path / "out.png")
        assert done.returncode == 0, done.stderr
        assert "1 frame; onnxruntime on CPU" in done.stdout
        made = cv2.imread(str(tmp_path / "out.png")).astype(int)
        assert np.abs(made - colours(plain_depth(rgb))).max() <= 8  # one step of the colour map

    def test_a_video_is_steady(self, started, bundle, tmp_path):
        """Frames that become lighter and lighter: steady depth keeps the first one's scale."""
        ramp = np.linspace(40, 160, HW[1]).astype(np.uint8)
        frames = [np.tile(ramp[:, None] + 10 * each, (HW[0], 1, 3)) for each in range(6)]
        video = cv2.VideoWriter(
            str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, HW[::-1]
        )
        for frame in frames:
            video.write(frame)
        video.release()
        done = started("depth_opencv", bundle, tmp_path / "clip.avi", tmp_path / "out.mp4")
        assert done.returncode == 0, done.stderr
        assert "6 frames; onnxruntime" in done.stdout
        steady, made = Stabiliser(), cv2.VideoCapture(str(tmp_path / "out.mp4"))
        for frame in frames:
            depth = steady(plain_depth(frame).astype(np.float32))
            there, bgr = made.read()
            assert there
            assert np.abs(bgr.astype(int) - colours(depth)).mean() < 12  # two codecs
        assert not made.read()[0]

    def test_errors(self, started, bundle, rng, tmp_path):
        (tmp_path / "text.mp4").write_text("no video")
        for source in (tmp_path / "nothing.mp4", tmp_path / "text.mp4"):
            done = started("depth_opencv", bundle, source, tmp_path / "out.mp4")
            assert done.returncode == 5
            assert done.stderr.splitlines()[-1] == f"OpenCV cannot read {source}"  # after FFmpeg's
        cv2.imwrite(str(tmp_path / "photo.png"), rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
        done = started("depth_opencv", bundle, tmp_path / "photo.png", tmp_path / "out.xyz")
        assert (done.returncode, done.stderr.startswith("OpenCV: could not find a writer")) == (
            1,
            True,
        )
        done = started("depth_opencv", tmp_path, tmp_path / "photo.png", tmp_path / "out.png")
        assert (done.returncode, "manifest.json" in done.stderr) == (5, True)
