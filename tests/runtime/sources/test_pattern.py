import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sources.pattern import PatternSource, paint_number, read_number
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.system.opencv import cv2
from tests.plain_bundle import HW, write_plain_bundle


@given(
    number=st.integers(0, 2**24 - 1),
    height=st.integers(16, 200),
    width=st.integers(16, 300),
)
def test_a_painted_number_is_read_back(number, height, width):
    rgb = np.full((height, width, 3), 90, np.uint8)
    paint_number(rgb, number)
    assert read_number(rgb) == number
    assert read_number(rgb.mean(axis=2) / 255) == number


def test_it_survives_jpeg(rng):
    rgb = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    paint_number(rgb, 0x5A5A5A)
    coded = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    assert read_number(coded) == 0x5A5A5A


def test_without_a_rate_it_waits_to_be_taken():
    source = PatternSource(48, 64, fps=0, total=7)
    assert not source.is_live
    frames = list(source)
    assert [read_number(frame.rgb) for frame in frames] == list(range(7))
    assert [frame.index for frame in frames] == list(range(7))
    assert np.abs(np.diff([f.rgb.astype(int) for f in frames], axis=0)).max() > 100  # it moves


def test_with_a_rate_it_keeps_time():
    source = open_source("test:?size=48x64&fps=50&frames=11")
    assert (source.is_live, source.fps, source.total) == (True, 50.0, 11)
    start = time.monotonic()
    frames = list(source)
    assert time.monotonic() - start >= 0.2
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(11) / 50)
    assert frames[0].rgb.shape == (48, 64, 3)


def test_it_stops_when_asked():
    source = PatternSource(48, 64, fps=5)
    iterator = iter(source)
    next(iterator)
    source.stop()
    assert list(iterator) == []


def test_a_source_that_was_run_may_be_run_again(tmp_path):
    """The end of a run stops its source, and so did it the next one before its first frame, without a word."""
    bundle = open_bundle(write_plain_bundle(tmp_path / "bundle"))
    source = PatternSource(*HW, fps=0, total=3)
    for _ in range(2):
        assert run_source(bundle, source, []).frames == 3


def test_a_size_that_cannot_be_processed():
    with pytest.raises(SourceError, match="at least 16 px"):
        open_source("test:?size=8x64")
