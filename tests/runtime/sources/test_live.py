import itertools
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError, UnavailableError, UsageError
from e2e_deploy.runtime.sources.live import CameraSource, StreamSource
from e2e_deploy.runtime.sources.pattern import read_number
from e2e_deploy.runtime.sources.uris import open_source
from tests.rtsp_server import RtspServer, ts_bytes
from tests.videos import write_streams, write_video

HW = (96, 160)


def stream(url, timeout_s=2.0, reconnect_s=20.0):
    return StreamSource(url, timeout_s=timeout_s, reconnect_s=reconnect_s)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_rtsp_stream_gives_its_frames():
    with RtspServer([[ts_bytes(*HW, 60)]], credentials="me:secret") as server:
        source = stream(server.url, reconnect_s=0)
        frames = []
        with pytest.raises(
            SourceError, match=r"rtsp://\*\*\*@127.0.0.1:\d+/\*\*\* .* after \d+ frames"
        ):
            for frame in source:
                frames.append(frame)
    numbers = [read_number(frame.rgb) for frame in frames]
    assert len(numbers) >= 30
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(a.captured_s <= b.captured_s for a, b in itertools.pairwise(frames))
    np.testing.assert_allclose(np.diff([frame.pts_s for frame in frames]), 1 / 25, atol=1e-4)
    assert {frame.rgb.shape for frame in frames} == {(*HW, 3)}
    assert {frame.source for frame in frames} == {source.name}
    assert source.is_live


def test_a_session_named_in_latin_1():
    with RtspServer([[ts_bytes(*HW, 40)]], title="Kamera Müller") as server:
        frame = next(iter(stream(server.url, reconnect_s=0)))
    assert frame.hw == HW


def test_a_stream_becomes_upright_frames_as_a_file_does(tmp_path):
    """One way for both; here pixels that are not square, two fields a frame and times of the capture."""
    path = tmp_path / "a.ts"
    greys = [np.full((64, 96, 3), 3 * index, np.uint8) for index in range(60)]
    write_video(path, greys, aspect=Fraction(4, 3), interlaced=True, options={"g": "5"})
    with RtspServer([[path.read_bytes()]]) as server:
        source = stream(server.url, reconnect_s=0)
        frames = []
        with pytest.raises(SourceError):
            for frame in source:
                frames.append(frame)
    assert {frame.hw for frame in frames} == {(64, 128)}
    assert len(source.notes) == 2
    assert "deinterlaced" in " ".join(source.notes)
    assert "stretched" in " ".join(source.notes)
    assert frames[0].shown_s == 0
    shown = [(frame.shown_s, frame.captured_s - frames[0].captured_s) for frame in frames]
    np.testing.assert_allclose(*zip(*shown, strict=True), atol=1e-6)


@contextmanager
def sends(data):
    """The address of a server that gives ``data`` to who connects first, then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client, suppress(ConnectionError):  # the other side may close in the middle
                client.sendall(data)
                client.recv(1)  # until it closes

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("end", "hw"), [("", (96, 128)), ("?stream=1", (32, 48)), ("#stream=1", (32, 48))]
)
def test_the_best_video_stream_or_the_one_asked_for(tmp_path, end, hw):
    write_streams(
        tmp_path / "a.ts", {"libx264": (96, 128), "mpeg2video": (32, 48)}, count=60, rate=25
    )
    with sends((tmp_path / "a.ts").read_bytes()) as url:
        frame = next(iter(stream(url + end, timeout_s=5.0)))
    assert frame.hw == hw


def test_a_cameras_own_query_is_left_to_it():
    assert StreamSource("rtsp://host/a?stream=1")._url == "rtsp://host/a?stream=1"
    assert StreamSource("rtsp://host/a?stream=1#stream=2")._url == "rtsp://host/a?stream=1"


def test_a_time_out_is_said_in_words():
    with sends(b"") as url, pytest.raises(SourceError, match=r"opened: nothing came for 0\.3 s$"):
        list(stream(url, timeout_s=0.3, reconnect_s=0))


def test_wrong_credentials_are_refused_at_once_and_shown_nowhere(capfd, caplog):
    with RtspServer([[]], credentials="me:secret") as server:
        url = server.url.replace("secret", "hunter2")
        source = stream(url)
        start = time.monotonic()
        with pytest.raises(SourceError, match="was refused") as caught:
            next(iter(source))
    assert time.monotonic() - start < 10
    said = capfd.readouterr()
    told = (str(caught.value), repr(caught.value), source.name, *said, caplog.text)
    assert not [text for text in told if "hunter2" in text or "me:" in text]
    assert caught.value.__suppress_context__  # FFmpeg's own exception holds the address


def test_a_server_that_breaks_off_is_asked_again_and_may_change_the_size():
    plays = [
        [ts_bytes(*HW, 50)],
        [ts_bytes(64, 128, 50, first=100)],
        [ts_bytes(*HW, 50, first=200)],
    ]
    with RtspServer(plays) as server:
        source = stream(server.url)
        frames = []
        for frame in source:
            frames.append(frame)
            if read_number(frame.rgb) >= 240:
                source.stop()
    numbers = [read_number(frame.rgb) for frame in frames]
    assert source.gaps == 2
    assert [n // 100 for n in (numbers[0], numbers[-1])] == [0, 2]
    assert numbers == sorted(numbers)  # none invented, none twice
    assert len(set(numbers)) == len(numbers)
    assert {f.rgb.shape[:2] for f in frames if read_number(f.rgb) // 100 == 1} == {(64, 128)}
    assert [frame.index for frame in frames] == list(range(len(frames)))


def test_a_change_of_size_within_one_stream():
    with RtspServer([[ts_bytes(*HW, 50) + ts_bytes(64, 128, 50, first=100), 2.0]]) as server:
        source = stream(server.url)
        sizes = []
        for frame in source:
            sizes.append(frame.rgb.shape[:2])
            if sizes[-1] == (64, 128):
                source.stop()
    assert sizes[0] == HW
    assert sizes[-1] == (64, 128)


def test_silence_is_a_loss_and_not_the_end():
    plays = [[ts_bytes(*HW, 50), 3.0], [ts_bytes(*HW, 50, first=100), 1.0]]
    with RtspServer(plays) as server:
        source = stream(server.url, timeout_s=1.0)
        for frame in source:
            if read_number(frame.rgb) >= 100:
                source.stop()
    assert source.gaps == 1
    assert server.clients == 2


def test_a_silence_shorter_than_the_timeout_is_no_loss():
    """As 30 seconds are with --timeout 40; here a second, of a timeout of five."""
    with RtspServer([[ts_bytes(*HW, 50), 1.0, ts_bytes(*HW, 50, first=100), 1.0]]) as server:
        source = stream(server.url, timeout_s=5.0)
        numbers = []
        for frame in source:
            numbers.append(read_number(frame.rgb))
            if numbers[-1] >= 100:
                source.stop()
    assert numbers[0] < 50
    assert (source.gaps, server.clients) == (0, 1)


def test_damaged_packets_are_counted_and_the_rest_goes_on(rng):
    data = bytearray(ts_bytes(*HW, 60))
    for start in range(len(data) // 4, len(data) // 2, 5 * 188):
        data[start + 20 : start + 180] = rng.bytes(160)
    with RtspServer([[bytes(data), 2.0]]) as server:
        source = stream(server.url)
        numbers = []
        for frame in source:
            numbers.append(read_number(frame.rgb))
            if numbers[-1] == 58:
                source.stop()
    assert source.skipped > 0
    assert len(numbers) < 59
    assert source.gaps == 0


def test_a_lost_stream_is_given_up_in_time():
    with RtspServer([[ts_bytes(*HW, 50)]]) as server:
        source = stream(server.url, timeout_s=0.5, reconnect_s=1.0)
        iterator = iter(source)
        next(iterator)
        server._socket.close()
        start = time.monotonic()
        with pytest.raises(SourceError, match="cannot be opened"):
            for _ in iterator:
                pass
    assert 0.8 < time.monotonic() - start < 15


SENDER = """
import sys, time, av
from e2e_deploy.runtime.sources.pattern import PatternSource
url, first = sys.argv[1], int(sys.argv[2])
with av.open(url, "w", format="mpegts") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
    stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
    for frame in PatternSource(96, 160, fps=0):
        if frame.index >= first:
            picture = av.VideoFrame.from_ndarray(frame.rgb)
            picture.pts = frame.index
            for packet in stream.encode(picture):
                container.mux(packet)
            print(frame.index, flush=True)
            time.sleep(0.04)
"""


@pytest.mark.slow
def test_a_sender_that_is_killed_and_started_again_three_times():
    url = f"udp://127.0.0.1:{free_port()}"
    started = []

    def send(first):
        command = [sys.executable, "-c", SENDER, f"{url}?pkt_size=1316", str(first)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        started[-1].stdout.readline()  # the first frame is sent

    source = stream(url, timeout_s=1.5, reconnect_s=60.0)
    frames, restarts = [], 0
    send(0)
    try:
        for frame in source:
            frames.append(frame)
            if read_number(frame.rgb) >= 1000 * restarts + 8:
                if restarts == 3:
                    source.stop()
                elif started[-1].poll() is None:
                    started[-1].kill()
                    started[-1].wait()
                    restarts += 1
                    threading.Timer(3.0, send, [1000 * restarts]).start()
    finally:
        for process in started:
            process.kill()
            process.communicate()
    numbers = [read_number(frame.rgb) for frame in frames]
    assert source.gaps == 3
    assert {n // 1000 for n in numbers} == {0, 1, 2, 3}
    assert numbers == sorted(numbers)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(frame.rgb.max() > 0 for frame in frames)  # no black frame in a gap


def knows_srt():
    try:
        av.open("srt://127.0.0.1:9", format="mpegts", timeout=0.5)
    except av.error.ProtocolNotFoundError:
        return False
    except (OSError, av.FFmpegError):
        return True
    return True


@pytest.mark.skipif(knows_srt(), reason="this PyAV has srt")
def test_an_ffmpeg_without_srt_is_one_sentence():
    with pytest.raises(UnavailableError, match="was built without srt; send over rtsp") as caught:
        next(iter(open_source(f"srt://127.0.0.1:{free_port()}?passphrase=abcdefghij")))
    assert caught.value.exit_code == 4
    assert "abcdefghij" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not knows_srt(), reason="this PyAV has no srt")
def test_srt_on_loopback():
    address = f"srt://127.0.0.1:{free_port()}"
    listener = f"{address}?mode=listener&pkt_size=1316"
    sender = subprocess.Popen([sys.executable, "-c", SENDER, listener, "0"], stdout=subprocess.PIPE)
    source = stream(address, timeout_s=10.0)
    deadline = time.monotonic() + 20
    try:
        while True:
            try:
                numbers = [read_number(f.rgb) for f in itertools.islice(source, 10)]
                break
            except SourceError:  # the listener is not up yet, and a first opening is tried once
                assert time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        sender.kill()
        sender.communicate()
    assert numbers == list(range(numbers[0], numbers[0] + 10))


def test_nothing_listens():
    with pytest.raises(SourceError, match=r"tcp://\*\*\*@127.0.0.1:\d+ cannot be opened") as caught:
        list(stream(f"tcp://user:pw@127.0.0.1:{free_port()}"))
    assert "pw" not in str(caught.value)


def test_a_password_that_hides_the_host_is_explained():
    with pytest.raises(
        SourceError, match=r"rtsp://\*\*\* cannot be opened: .*; / \? # @ .* %2F"
    ) as caught:
        list(stream("rtsp://user:s3/cret@127.0.0.1:1/x", timeout_s=0.5, reconnect_s=0))
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("spec", ["http://me:pw@host/a.m3u8", "concat://a|b", "file:///etc/passwd"])
def test_other_schemes_are_refused(spec):
    with pytest.raises(UsageError, match="the schemes are rtsp, udp, tcp, srt") as caught:
        open_source(spec)
    assert "pw" not in str(caught.value)


class FakeCapture:
    """A camera that gives three frames each time it is opened."""

    opened, wishes = [], []

    def __init__(self, index):
        self.frames = [np.full((20, 30, 3), (10, 20, 30), np.uint8)] * 3
        self.released = False
        FakeCapture.opened.append(self)

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return 0.0

    def set(self, what, value):
        FakeCapture.wishes.append((what, value))

    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)

    def release(self):
        self.released = True


@pytest.fixture
def fake_camera(monkeypatch):
    FakeCapture.opened, FakeCapture.wishes = [], []
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)


def test_a_lost_camera(fake_camera):
    source = CameraSource(0, reconnect_s=0)
    assert (source.fps, source.total, source.is_video, source.is_live) == (None, None, True, True)
    iterator = iter(source)
    first = next(iterator)
    assert first.rgb[0, 0].tolist() == [30, 20, 10]
    assert (first.name, first.source) == ("camera0", "camera 0")
    with pytest.raises(SourceError, match="camera 0 stopped giving frames after 3 frames"):
        list(iterator)
    assert all(capture.released for capture in FakeCapture.opened)


@pytest.mark.parametrize(
    ("said", "fps"), [(-1.0, None), (np.inf, None), (np.nan, None), (1e7, None), (29.97, 29.97)]
)
def test_a_rate_that_no_camera_has_is_not_known(fake_camera, monkeypatch, said, fps):
    monkeypatch.setattr(FakeCapture, "get", lambda self, what: said)
    assert CameraSource(0).fps == fps


def test_a_camera_that_comes_back(fake_camera):
    source = CameraSource(0)
    indices = []
    for frame in source:
        indices.append(frame.index)
        if len(indices) == 5:
            source.stop()
    assert indices == [0, 1, 2, 3, 4]
    assert source.gaps == 1
    assert [capture.released for capture in FakeCapture.opened] == [True, True]


def test_what_a_camera_is_asked_for(fake_camera):
    open_source("camera:0?size=480x640&fps=15&format=MJPG")
    names = [what for what, _ in FakeCapture.wishes]
    assert names[0] == cv2.CAP_PROP_FOURCC  # before size and rate, which depend on it
    assert (cv2.CAP_PROP_FRAME_HEIGHT, 480) in FakeCapture.wishes
    assert (cv2.CAP_PROP_FRAME_WIDTH, 640) in FakeCapture.wishes
    assert (cv2.CAP_PROP_FPS, 15) in FakeCapture.wishes
    assert open_source("0").name == "camera 0"


@pytest.mark.parametrize(
    "spec",
    [
        "camera:0?sise=1",
        "camera:0?format=JPEGS",
        "camera:0?size=3",
        "test:?fps=x",
        "test:?frames=-1",
    ],
)
def test_options_that_make_no_sense(spec, fake_camera):
    with pytest.raises(UsageError):
        open_source(spec)
