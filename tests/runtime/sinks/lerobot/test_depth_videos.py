"""Videos of depth, read back by FFmpeg: no bit is lost, frames are where lerobot looks for them."""

import av
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.lerobot.depth_videos import DepthVideos

KEY = "observation.images.front_depth"


def read(path):
    """(times in seconds, codes) of a file."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("hevc", "gray12le")
        frames = list(file.decode(stream))
        return [f.time for f in frames], [f.to_ndarray(format="gray12le") for f in frames]


def videos(root, fps=10.0, **settings):
    return DepthVideos(root, KEY, fps=fps, **{"file_bytes": 10**9, "chunk_files": 1000} | settings)


@pytest.mark.parametrize("hw", [(48, 64), (33, 45), (16, 240)])
@pytest.mark.parametrize("fps", [10.0, 30.0, 29.97])
def test_every_bit_comes_back_at_its_time(tmp_path, rng, hw, fps):
    sink, frames, times = videos(tmp_path, fps=fps), [], []
    for length in (3, 1, 4):
        place = sink.begin(hw)
        assert place.from_s == pytest.approx(len(frames) / fps)
        for index in range(length):
            codes = rng.integers(0, 4096, hw, dtype=np.uint16)
            time_s = float(np.float32(index / fps))
            sink.add(codes, time_s)
            frames.append(codes)
            times.append(place.from_s + time_s)
    sink.close()
    found_times, found = read(tmp_path / f"videos/{KEY}/chunk-000/file-000.mp4")
    np.testing.assert_array_equal(found, frames)
    np.testing.assert_allclose(found_times, times, atol=5e-5)  # lerobot allows 1e-4


def test_a_file_that_is_large_enough_is_followed_by_another(tmp_path, rng):
    """The encoder holds some frames back, so that a file grows a little late."""
    sink, places, length, total = videos(tmp_path, file_bytes=1, chunk_files=2), [], 30, 0
    for _ in range(5):
        places.append(sink.begin((16, 16)))
        for index in range(length):
            sink.add(rng.integers(0, 4096, (16, 16), dtype=np.uint16), index / 10)
    sink.close()
    named = [f"videos/{KEY}/chunk-{p.chunk:03d}/file-{p.file:03d}.mp4" for p in places]
    assert named == [f"videos/{KEY}/chunk-{n // 2:03d}/file-{n % 2:03d}.mp4" for n in range(5)]
    for name, place in zip(named, places, strict=True):
        times, _ = read(tmp_path / name)
        total += len(times)
        assert (times[0], place.from_s) == (0.0, 0.0)
    assert total == 5 * length


def test_a_size_that_cannot_be_encoded_is_one_sentence(tmp_path):
    sink = videos(tmp_path)
    sink.begin((8, 9))
    with pytest.raises(E2EDeployError, match="depth of 9x8 could not be written into"):
        sink.add(np.zeros((8, 9), np.uint16), 0.0)
    sink.give_up()
