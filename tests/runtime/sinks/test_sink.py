import cv2
import numpy as np
import pytest

from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime.sinks.sink import CallbackSink, SixteenBits, WindowSink
from e2e_deploy.runtime.steps.metric import MILLIMETRES_16
from tests.sink_inputs import painter, result_for, source_frame


def test_sixteen_bits_saturate_and_unknown_is_a_code_of_its_own():
    bits = SixteenBits(0.0, 1.0)
    values = np.array([[-0.5, 0, 1, 1.5, np.nan, np.inf, -np.inf]], np.float32)
    assert bits.store(values).tolist() == [[1, 1, 65535, 65535, 0, 0, 0]]
    told = bits.told()
    assert told["unknown"] == 0
    assert [code * told["scale"] + told["offset"] for code in (1, 65535)] == pytest.approx([0, 1])


def test_a_normal_with_one_component_missing_is_unknown_in_all():
    values = np.array([[[0, 0, 1], [np.nan, 0.6, 0.8]]], np.float32)
    assert SixteenBits(-1.0, 1.0).store(values).tolist() == [[[32768, 32768, 65535], [0, 0, 0]]]


def test_metric_depth_is_in_millimetres():
    bits = SixteenBits(*MILLIMETRES_16)
    values = np.array([[np.nan, 1.234, 40.0, 99.0]], np.float32)
    assert bits.store(values).tolist() == [[0, 1234, 40000, 65535]]
    assert (bits.scale, bits.offset) == pytest.approx((0.001, 0), abs=1e-12)


def test_untrained_weights_are_said_in_the_pixels(manifests, rng):
    result = np.full((60, 200), 0.5, np.float32)
    marked, plain = (
        painter(manifests["depth"])(result, {}),
        painter(manifests["trained"])(result, {}),
    )
    changed = (marked != plain).any(axis=2)
    assert changed[:30].sum() == 0
    assert changed[30:].sum() > 100


def test_a_window_needs_a_display(manifests, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UnavailableError, match="needs a display and there is none here"):
        WindowSink(painter(manifests["depth"]), wait=True)


def test_a_window_shows_bgr_and_q_ends(manifests, monkeypatch, rng):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("x") if len(shown) < 2 else ord("q"))
    sink = WindowSink(painter(manifests["trained"]), wait=False)
    frame = source_frame(rng)
    sink.write(frame, result_for("depth", rng), {})
    assert shown[0].shape == (60, 160, 3)
    np.testing.assert_array_equal(shown[0][:, :80], frame.rgb[..., ::-1])
    with pytest.raises(KeyboardInterrupt):
        sink.write(frame, result_for("depth", rng), {})


def test_a_cut_starts_a_new_display_range(manifests):
    paint = painter(manifests["trained"], is_video=True)
    near = np.linspace(0.0, 0.1, 4800, dtype=np.float32).reshape(60, 80)
    for _ in range(3):
        paint(near, {"steady": {"cut": False}})
    far = near + 0.8
    assert np.ptp(paint(far, {"steady": {"cut": False}}), axis=(0, 1)).max() == 0  # out of range
    np.testing.assert_array_equal(
        paint(far, {"steady": {"cut": True}}), painter(manifests["trained"])(far, {})
    )


def test_a_callback_gets_what_a_sink_gets(rng):
    got = []
    sink = CallbackSink(lambda *arguments: got.append(arguments))
    frame, result, facts = source_frame(rng), result_for("depth", rng), {"a": 1}
    sink.write(frame, result, facts)
    assert got == [(frame, result, facts)]
    assert sink.close() == []
