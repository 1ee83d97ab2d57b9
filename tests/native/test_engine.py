"""The C library's results are Python's, to the last bit; what it refuses, it refuses in a sentence with a code."""

import ctypes
import os
import shutil
import threading

import numpy as np
import onnx
import pytest

import e2e_deploy as e2e
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.errors import E2EDeployError
from tests.native.build import program, run
from tests.native.library import Engine, Frame, NativeError, Result
from tests.plain_bundle import HW, NOTE, rehash, write_plain_bundle

TWO = 2
"""Threads of an operator: named, so that nothing depends on how many cores a test may use."""


@pytest.fixture
def engine(native, native_onnxruntime):
    """engine(bundle, **options): an engine of the C library, closed at the end."""
    opened = []

    def load(folder, **options):
        options = {"onnxruntime": native_onnxruntime, "threads": TWO} | options
        opened.append(native.engine(folder, **options))
        return opened[-1]

    yield load
    for each in opened:
        each.close()


def python(folder, frames, call="__call__", **options):
    with e2e.load(folder, backend="onnxruntime", device="cpu", threads=TWO, **options) as engine:
        given = getattr(engine, call)(frames)
        return given if isinstance(given, dict) else {engine.outputs[0]: given}


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, result in theirs.items():
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(ours[name].view(np.uint32), result.view(np.uint32))


def test_depth_of_a_real_picture_is_pythons_to_the_last_bit(engine):
    from e2e_deploy.assets.pictures import reference_frames

    frames = reference_frames((480, 640), 1)[:1]
    assert_same(engine(READY_BUNDLE)(frames), python(READY_BUNDLE, frames))


@pytest.mark.parametrize(
    ("task", "batch"),
    [("depth", 1), ("normals", 1), ("geometry", 1), ("lighting", 3), ("geometry", 3)],
)
def test_every_result_of_every_frame_of_a_batch(engine, tmp_path, rng, task, batch):
    folder = write_plain_bundle(tmp_path / "bundle", task=task, batch=batch)
    frames = rng.integers(0, 256, (batch, *HW, 3), dtype=np.uint8)
    assert_same(engine(folder)(frames), python(folder, frames))


@pytest.mark.parametrize("hw", [(48, 64), (100, 77), (17, 31), (24, 33)])
@pytest.mark.parametrize(("task", "batch"), [("geometry", 1), ("depth", 2)])
def test_frames_of_other_sizes_come_back_at_their_own(engine, tmp_path, rng, hw, task, batch):
    folder = write_plain_bundle(tmp_path / "bundle", task=task, batch=batch)
    frames = rng.integers(0, 256, (batch, *hw, 3), dtype=np.uint8)
    loaded = engine(folder)
    assert_same(loaded(frames), python(folder, frames, "predict"))
    back = rng.integers(0, 256, (batch, *HW, 3), dtype=np.uint8)
    assert_same(loaded(back), python(folder, back))


@pytest.mark.parametrize("hw", [HW, (48, 64)])
def test_rows_may_be_apart(engine, tmp_path, rng, hw):
    folder = write_plain_bundle(tmp_path / "bundle")
    wide = rng.integers(0, 256, (1, hw[0], hw[1] + 5, 3), dtype=np.uint8)
    frames = wide[:, :, : hw[1]]
    loaded = engine(folder)
    assert_same(loaded(frames), loaded(np.ascontiguousarray(frames)))


def test_weights_in_a_file_of_their_own(engine, native, tmp_path):
    folder = shutil.copytree(READY_BUNDLE, tmp_path / "bundle")
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data")
    rehash(folder, "model.onnx")
    rehash(folder, "model.data")
    frames = np.full((1, 480, 640, 3), 90, np.uint8)
    assert_same(engine(folder)(frames), python(folder, frames))
    with native.bundle(folder) as bundle:
        data = bytearray((folder / "model.data").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "model.data").write_bytes(data)
        with pytest.raises(NativeError, match=r"model.data .* not the file that was exported"):
            Engine(native, bundle)


def test_a_graph_of_several_is_named_by_its_frame_size(engine, tmp_path):
    folder = write_plain_bundle(tmp_path / "bundle", sizes=(HW, (40, 56)))
    assert (engine(folder).info.height, engine(folder).info.width) == HW
    other = engine(folder, height=40, width=56)
    assert (other.info.height, other.info.width) == (40, 56)
    with pytest.raises(NativeError, match="no graph for frames of 10x20") as refused:
        engine(folder, height=10, width=20)
    assert refused.value.code == 2


def test_what_is_open_says_what_it_is(native, engine, tmp_path):
    folder = write_plain_bundle(tmp_path / "bundle", task="geometry", batch=2)
    with native.bundle(folder) as bundle:
        facts = bundle.facts
    manifest = e2e.open_bundle(folder).manifest
    assert facts["task"] == "geometry"
    assert facts["outputs"] == manifest.outputs
    assert facts["checkpoint"]["note"] == NOTE
    assert facts["graphs"][0]["frame_size"] == list(HW)
    assert facts["graphs"][0]["batch"] == 2
    loaded = engine(folder)
    info = loaded.info
    assert (info.height, info.width, info.batch, info.outputs) == (*HW, 2, len(manifest.outputs))
    assert (info.backend, info.device) == (b"onnxruntime", b"CPU, 2 threads")
    assert info.reason == b"the bundle has no TensorRT plan for this frame size"
    for output, kind, told in zip(
        loaded.outputs, manifest.kinds, facts["graphs"][0]["outputs"], strict=True
    ):
        assert output.name.decode() == told["name"] == kind.output
        assert output.kind.decode() == told["kind"] == kind.name
        assert output.form.decode() == told["form"] == kind.form
        assert output.units.decode() == told["units"] == kind.units
        assert output.meaning.decode() == told["meaning"] == kind.meaning
        assert [output.low, output.high] == told["range"] == list(kind.value_range)
        assert output.power == told["power"] == kind.power
        assert told["shape"] == [2, *kind.result_shape(*HW)]


def test_texts_of_a_manifest_are_json_whatever_they_hold(native, tmp_path):
    note = 'a "quoted" \\ path, tab\tand ü 深度'
    folder = write_plain_bundle(tmp_path / "bundle", note=note)
    with native.bundle(folder) as bundle:
        assert (
            bundle.facts["checkpoint"]["note"] == e2e.open_bundle(folder).manifest.checkpoint.note
        )


def test_two_engines_in_two_threads_and_one_from_both(engine, tmp_path, rng):
    one = write_plain_bundle(tmp_path / "one")
    two = write_plain_bundle(tmp_path / "two", task="normals")
    engines = [engine(one), engine(two), engine(one)]
    frames = rng.integers(0, 256, (20, *HW, 3), dtype=np.uint8)
    right = [[loaded(frame[None]) for frame in frames] for loaded in engines]
    wrong = []

    def work(own):
        for _ in range(5):
            for i, frame in enumerate(frames):
                for which in (own, 2):  # its own, and the one that both have
                    given = engines[which](frame[None])
                    if any(not np.array_equal(given[k], v) for k, v in right[which][i].items()):
                        wrong.append((which, i))

    threads = [threading.Thread(target=work, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_each_thread_has_its_own_last_error(native, tmp_path):
    said = {}

    def fail(name):
        with pytest.raises(NativeError):
            native.bundle(tmp_path / name)
        barrier.wait()
        said[name] = native.c.e2e_last_error().decode()

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=fail, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "first" in said["first"]
    assert "second" in said["second"]


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (b"/none/\xff\xc3", "/none/\ufffd\ufffd is"),
        (b"/none/\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf", "/none/" + "\ufffd" * 9 + " is"),
        ("/none/\n\x1b[31mü深😀".encode(), "/none/ [31mü深😀 is"),
        (b"/none/" + "深".encode() * 3000, "深深深"),
    ],
)
def test_what_is_said_is_one_line_of_utf_8(native, folder, said):
    assert native.c.e2e_bundle_open(folder, 1, ctypes.byref(ctypes.c_void_p())) == 5
    text = native.c.e2e_last_error().decode()
    assert said in text
    assert text.isprintable()
    assert len(text.encode()) < 4096


def test_an_engine_outlives_its_bundle_and_the_folder_is_free(native, engine, tmp_path, rng):
    folder = write_plain_bundle(tmp_path / "bundle")
    loaded = engine(folder)  # native.engine has closed the bundle
    shutil.rmtree(folder)
    frames = rng.integers(0, 256, (1, *HW, 3), dtype=np.uint8)
    assert loaded(frames)["depth"].shape == (1, *HW)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (
            {"backend": "openvino"},
            2,
            "unknown backend 'openvino'; the backends are auto, onnxruntime, tensorrt",
        ),
        ({"device": "gpu"}, 2, "unknown device 'gpu'; the devices are auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:"}, 2, "unknown device 'cuda:'"),
        ({"threads": -1}, 2, "threads is -1; expected 1 to 1024, or 0"),
        ({"threads": 1025}, 2, "threads is 1025"),
        ({"backend": "tensorrt", "device": "cpu"}, 2, "TensorRT runs on a GPU only"),
        ({"backend": "tensorrt", "threads": 2}, 2, "threads has no effect with tensorrt"),
        ({"backend": "onnxruntime", "device": "cuda"}, 4, "runs ONNX Runtime on the CPU"),
        ({"backend": "onnxruntime", "tensorrt": "x"}, 2, "tensorrt has no effect with onnxruntime"),
        ({"height": 24}, 2, "24x0"),
        (
            {"onnxruntime": "/no/such/libonnxruntime.so"},
            2,
            "this process has loaded ONNX Runtime from",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(native, engine, tmp_path, options, code, text):
    folder = write_plain_bundle(tmp_path / "bundle")
    engine(folder)  # from here on ONNX Runtime is loaded
    with pytest.raises(NativeError) as refused:
        native.engine(folder, **options)
    assert (refused.value.code, text in str(refused.value)) == (code, True), refused.value


def test_frames_and_results_that_cannot_be_are_refused(native, engine, tmp_path):
    loaded = engine(write_plain_bundle(tmp_path / "bundle", batch=2))
    pixels, floats = np.zeros((2, *HW, 3), np.uint8), np.zeros((2, *HW), np.float32)

    def refusal(frame_change=None, result_change=None, frame_count=2, result_count=1):
        frames, result = (Frame * 2)(), Result(values=floats.ctypes.data, count=floats.size)
        for i, frame in enumerate(frames):
            frame.__init__(rgb=pixels[i].ctypes.data, height=HW[0], width=HW[1])
        for name, value in (frame_change or {}).items():
            setattr(frames[1], name, value)
        for name, value in (result_change or {}).items():
            setattr(result, name, value)
        code = native.c.e2e_engine_run(
            loaded.handle, frames, frame_count, ctypes.byref(result), result_count
        )
        assert code == 2 if code else True
        return native.c.e2e_last_error().decode() if code else ""

    assert refusal() == ""
    assert "takes 2 frames at once, not 1" in refusal(frame_count=1)
    assert "0 frames were given" in refusal(frame_count=0)
    assert "frames were given; expected 1 to 64" in refusal(frame_count=2**40)
    assert "one size" in refusal({"height": 23})
    assert "e2e_frame.rgb is NULL" in refusal({"rgb": None})
    assert "row_bytes is 95, and a row of 32 pixels takes 96" in refusal({"row_bytes": 95})
    assert "a frame is 0x32" in refusal({"height": 0})
    assert "a frame is -1x32" in refusal({"height": -1})
    assert "a frame is 24x65537" in refusal({"width": 65537})
    assert "struct_size is 99, and that of the first in the array is" in refusal(
        {"struct_size": 99}
    )
    assert "e2e_result.values is NULL" in refusal(None, {"values": None})
    assert "1535 floats, and 1536 are needed" in refusal(None, {"count": 1535})
    assert "set it to sizeof(e2e_result)" in refusal(None, {"struct_size": 0})
    assert "1 outputs, and 2 results" in refusal(result_count=2)
    code = native.c.e2e_engine_run_on_device(
        loaded.handle, pixels.ctypes.data, (ctypes.c_void_p * 1)(256), 1, None
    )
    assert code == 2
    assert b"takes frames of the host" in native.c.e2e_last_error()


def test_frames_too_large_or_narrow_to_fit_say_what_python_says(engine, tmp_path, rng):
    folder = write_plain_bundle(tmp_path / "bundle")
    loaded = engine(folder)
    for hw in ((4, 300), (400, 9)):
        frames = rng.integers(0, 256, (1, *hw, 3), dtype=np.uint8)
        with pytest.raises(NativeError) as ours:
            loaded(frames)
        with pytest.raises(E2EDeployError) as theirs:
            python(folder, frames, "predict")
        assert ours.value.code == theirs.value.exit_code
        assert str(ours.value).split(" for ")[0] == str(theirs.value).split(" for ")[0]


def test_null_is_refused_and_may_be_closed(native):
    c = native.c
    for code in (
        c.e2e_bundle_open(None, 1, ctypes.byref(ctypes.c_void_p())),
        c.e2e_bundle_open(b".", 1, None),
        c.e2e_engine_open(None, None, None),
        c.e2e_engine_about(None, None),
        c.e2e_engine_output(None, 0, None),
        c.e2e_engine_run(None, None, 0, None, 0),
        c.e2e_engine_run_on_device(None, None, None, 0, None),
        c.e2e_steady_open(None),
        c.e2e_steady_run(None, None, 0, 0, None, None),
        c.e2e_steady_reset(None),
        c.e2e_metric_from_points(None, 0, 0, None, None, 0, None),
        c.e2e_metric_from_plane(None, 0, 0, None, None, 0, None, None),
        c.e2e_metric_apply(None, None, 0, None),
    ):
        assert code == 2
        assert c.e2e_last_error().endswith(b" is NULL")
    assert c.e2e_bundle_facts(None) is None
    for close in (c.e2e_bundle_close, c.e2e_engine_close, c.e2e_steady_close):
        close(None)


def test_a_graph_that_was_changed_after_the_bundle_was_opened_is_not_loaded(
    native, native_onnxruntime, tmp_path
):
    folder = write_plain_bundle(tmp_path / "bundle")
    with native.bundle(folder) as bundle:
        graph = folder / "model_24x32.onnx"
        data = bytearray(graph.read_bytes())
        data[-1] ^= 1
        graph.write_bytes(data)
        code = native.c.e2e_engine_open(bundle.handle, None, ctypes.byref(ctypes.c_void_p()))
    assert code == 5
    assert b"not the file that was exported" in native.c.e2e_last_error()


def test_a_child_of_fork_is_told_to_open_its_own_and_may_close_what_it_has(
    native_build, native_onnxruntime, tmp_path
):
    forks = program("forks", native_build, tmp_path)
    folder = write_plain_bundle(tmp_path / "bundle")
    environment = os.environ | {"E2E_DEPLOY_ONNXRUNTIME": str(native_onnxruntime)}
    said = run(forks, folder, env=environment, timeout=60)
    assert said.splitlines() == [
        "child: 2 this engine was opened in another process, before fork; open one in the child",
        "child: its own 0 0",
        "parent: 0 0",
    ]
