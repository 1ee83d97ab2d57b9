import re
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from e2e_deploy.errors import E2EDeployError, SourceError, UnavailableError
from e2e_deploy.runtime.run import run
from e2e_deploy.runtime.sinks.streams.links import reached
from e2e_deploy.runtime.sinks.streams.stream_sink import StreamSink
from e2e_deploy.runtime.sources.live import StreamSource
from e2e_deploy.runtime.sources.pattern import PatternSource
from tests.filming import (
    FPS,
    HW,
    Listener,
    decoded_bytes,
    numbers_of,
    received,
    served_at,
)
from tests.plain_bundle import plain_results, write_plain_bundle
from tests.sink_inputs import painter

SERVED = {"rtsp": "rtsp://127.0.0.1:0/depth?listen", "tcp": "tcp://127.0.0.1:0?listen"}
PATH = {"rtsp": "/depth", "tcp": ""}
H264_ERROR = 6  # mean of 255, where boxes have edges in colours that share pixels


def consecutive(numbers):
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("scheme", SERVED)
def test_who_joins_in_the_middle_sees_the_picture_at_once(filming, scheme):
    with filming(SERVED[scheme], side_by_side=True) as camera:
        time.sleep(0.5)
        frames = received(served_at(camera, PATH[scheme]), 12)
    numbers = numbers_of(frames)
    assert numbers[0] >= 10
    assert consecutive(numbers)
    first = frames[0][1]
    assert first.key_frame
    assert (first.colorspace, first.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
    for (rgb, _), number in zip(frames, numbers, strict=True):
        assert rgb.shape == (HW[0], 2 * HW[1], 3)
        wanted = camera.painted[number]
        assert np.abs(rgb[:, HW[1] :].astype(float) - wanted).mean() < H264_ERROR
    # the distance of times is that of the captures, to a tick of 1/90000 s
    times = [frame.time for _, frame in frames]
    captured = [camera.captured_s[number] for number in numbers]
    np.testing.assert_allclose(np.diff(times), np.diff(captured), atol=3e-5)
    assert camera.sink.dropped == 0
    assert camera.sink.name == served_at(camera) + ("/***" if PATH[scheme] else "")


def test_the_first_frame_after_a_receiver_came_is_one_to_begin_with(still):
    camera = still(SERVED["tcp"], side_by_side=True)
    camera.write(0.0)
    with socket.create_connection(("127.0.0.1", camera.sink.port), 5) as receiver:
        until_s = time.monotonic() + 5
        while not camera.sink._audience.all:
            assert time.monotonic() < until_s
        for number in range(1, 5):
            camera.write(number / FPS)
        camera.sink.close()
        frames = decoded_bytes(receiver.makefile("rb").read())
    assert numbers_of(frames) == [1, 2, 3, 4]
    assert [frame.key_frame for _, frame in frames] == [True, False, False, False]


@pytest.mark.parametrize("scheme", SERVED)
def test_the_end_of_the_stream_is_clean_for_all_who_watch(filming, scheme):
    got, ready = [[], []], threading.Barrier(3)

    def watch(index, url):
        source = StreamSource(url, timeout_s=30, reconnect_s=0)
        with suppress(SourceError):
            for frame in source:
                if not got[index]:
                    ready.wait(10)
                got[index].append((frame.rgb, source))

    with filming(SERVED[scheme]) as camera:
        url = served_at(camera, PATH[scheme])
        threads = [threading.Thread(target=watch, args=(i, url)) for i in range(2)]
        for thread in threads:
            thread.start()
        ready.wait(10)
        time.sleep(0.3)
    start_s = time.monotonic()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - start_s < 15  # they saw the end, and did not wait for silence
    last = max(camera.painted)
    for frames in got:
        assert len(frames) >= 5
        assert frames[0][1].skipped == 0
        rgb = frames[-1][0]
        assert rgb.shape == (*HW, 3)
        assert np.abs(rgb.astype(float) - camera.painted[last]).mean() < H264_ERROR


def test_udp_goes_out_in_whole_packets_and_a_key_frame_comes_each_second(filming):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        with filming(f"udp://127.0.0.1:{receiver.getsockname()[1]}", side_by_side=True) as camera:
            while len(camera.painted) < 15:  # a receiver that comes late
                receiver.recv(2048)
            datagrams = [receiver.recv(2048)]
            while len(camera.painted) < 15 + 1.5 * FPS:
                datagrams.append(receiver.recv(2048))
    assert max(map(len, datagrams)) <= 1316
    assert {len(data) % 188 for data in datagrams} == {0}
    frames = decoded_bytes(b"".join(datagrams))
    numbers = numbers_of(frames)
    assert consecutive(numbers)
    assert numbers[0] <= 15 + FPS + 1
    assert frames[0][1].key_frame


def test_udp_to_nobody_is_no_error(filming):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with filming(f"udp://127.0.0.1:{port}") as camera:
        while len(camera.painted) < 5:
            time.sleep(0.01)
    assert camera.sink.dropped == 0


def test_a_receiver_that_listens_gets_everything_from_the_first_frame_on(still):
    listener = Listener()
    camera = still(f"tcp://127.0.0.1:{listener.port}", side_by_side=True)
    for number in range(10):
        camera.write(number / FPS)
    assert camera.sink.close() == []
    listener.leave()
    frames = decoded_bytes(listener.parts[0])
    assert numbers_of(frames) == list(range(10))
    np.testing.assert_allclose([f.time for _, f in frames], np.arange(10) / FPS, atol=3e-5)


def test_a_receiver_that_comes_back_begins_at_a_key_frame(filming):
    listener = Listener(leave_after=[4000])
    with filming(f"tcp://127.0.0.1:{listener.port}", side_by_side=True) as camera:
        listener.wait(1, 20_000)
    listener.leave()
    frames = decoded_bytes(listener.parts[1])
    numbers = numbers_of(frames)
    assert frames[0][1].key_frame
    assert consecutive(numbers)
    assert numbers[-1] == max(camera.painted)
    assert camera.sink.dropped >= 1


def test_a_receiver_that_stays_away_is_said_at_the_end(still):
    listener = Listener(leave_after=[1])
    camera = still(f"tcp://127.0.0.1:{listener.port}")
    camera.write(0.0)
    listener.wait(0, 1)
    listener.leave()
    until_s = time.monotonic() + 10
    while not camera.sink.dropped:
        assert time.monotonic() < until_s
        camera.write(time.monotonic())
        time.sleep(0.005)
    start = time.perf_counter()
    with pytest.raises(E2EDeployError, match=r"tcp://127.0.0.1:\d+ was lost and did not come back"):
        camera.sink.close()
    assert time.perf_counter() - start < 15


def test_nothing_is_coded_while_nobody_looks(still, monkeypatch):
    camera = still(SERVED["tcp"])
    coded = []
    encoder = camera.sink._encoder
    monkeypatch.setattr(
        camera.sink, "_encoder", lambda *a, **k: coded.append(1) or encoder(*a, **k)
    )
    for number in range(5):
        camera.write(number / FPS)
    assert len(coded) == 1  # by which the stream is described
    camera.sink.close()


def test_errors_before_a_run_are_sentences(manifests):
    def opened(address):
        return StreamSink(
            address, painter(manifests["depth"], True), fps=30, live=True, side_by_side=False
        )

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=f"127.0.0.1:{port}/.* cannot be served: Addr.* in use"
        ):
            opened(f"rtsp://u:s3cret@127.0.0.1:{port}/x?listen")
    for address in (f"tcp://127.0.0.1:{port}", f"rtsp://me:s3cret@127.0.0.1:{port}/s3cret"):
        with pytest.raises(E2EDeployError) as nobody:
            opened(address)
        assert re.fullmatch(
            rf"nobody takes the stream at \w+://(\*\*\*@)?127.0.0.1:{port}(/\*\*\*)?: Connection refused; "
            "with .listen at its end it is served here, and others connect",
            str(nobody.value),
        )
    with pytest.raises(E2EDeployError, match=r"at udp://no-such-host.invalid:9: [A-Z][a-z ]+"):
        opened("udp://no-such-host.invalid:9")
    with pytest.raises(
        UnavailableError, match="192.0.2.1:9 cannot be served: .*; this machine is 127.0.0.1"
    ):
        opened("tcp://192.0.2.1:9?listen")  # an address that no machine has


def test_a_run_sends_a_file_in_real_time_and_loses_none_of_it(tmp_path):
    bundle = write_plain_bundle(tmp_path / "bundle", sizes=[HW], note="")
    listener = Listener()
    report = run(
        PatternSource(*HW, fps=0, total=16),
        bundle,
        out=f"tcp://127.0.0.1:{listener.port}",
        side_by_side=True,
    )
    listener.leave()
    assert numbers_of(decoded_bytes(listener.parts[0])) == list(range(16))
    assert report.seconds >= 15 / FPS
    (sink,) = report.sinks
    assert (sink.written, sink.dropped, sink.failure) == (16, 0, "")
    assert report.complete


def test_of_several_results_all_are_side_by_side(tmp_path):
    bundle = write_plain_bundle(tmp_path / "bundle", sizes=[HW], task="geometry", note="")
    listener = Listener()
    address = f"tcp://127.0.0.1:{listener.port}"
    report = run(PatternSource(*HW, fps=0, total=3), bundle, out=address, side_by_side=True)
    listener.leave()
    frames = decoded_bytes(listener.parts[0])
    assert numbers_of(frames) == [0, 1, 2]
    several = len(plain_results(np.zeros((*HW, 3), np.uint8), "geometry"))
    assert several > 1
    assert {rgb.shape for rgb, _ in frames} == {(HW[0], (1 + several) * HW[1], 3)}
    assert report.complete


def test_udp_to_a_name_goes_to_ipv4(monkeypatch):
    both = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", 9, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 9)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with reached("localhost", 9, socket.SOCK_DGRAM) as connection:
        assert connection.getpeername() == ("127.0.0.1", 9)


def test_a_run_whose_receiver_leaves_goes_on_and_says_so(tmp_path):
    bundle = write_plain_bundle(tmp_path / "bundle", sizes=[HW], note="")
    listener = Listener(leave_after=[1] * 100)

    def leave():
        listener.wait(0, 1)
        listener.leave()

    stop = threading.Thread(target=leave)
    stop.start()
    report = run(
        PatternSource(*HW, fps=60, total=60),
        bundle,
        out=[f"tcp://127.0.0.1:{listener.port}", tmp_path / "film.mp4"],
    )
    stop.join()
    stream = next(sink for sink in report.sinks if sink.name.startswith("tcp"))
    assert "was lost and did not come back" in stream.failure
    assert stream.dropped > 0
    assert not report.complete
    assert report.frames + report.dropped == 60
    assert (tmp_path / "film.mp4").exists()
