import json
import shutil

import cv2
import numpy as np
import onnx
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.engines import replace_plan
from tests import fake_gpu
from tests.plain_bundle import HW, edit_manifest, rehash, write_plain_bundle
from tests.runtime.fake_plans import VERSION, add_plan


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return fake_gpu.install(monkeypatch, tmp_path / "cache")


@pytest.fixture
def stale(tmp_path):
    """A bundle whose plan another version built."""
    root = write_plain_bundle(tmp_path / "bundle")
    add_plan(root, version="10.13.2")
    return root


@pytest.mark.parametrize("verb", ["verify", "bench", "run"])
@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_an_engine_that_does_not_fit_is_built_again(cli, gpu, stale, tmp_path, verb, backend):
    arguments = {"verify": [stale], "bench": [stale, "--frames", "1"]}
    if verb == "run":
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*HW, 3), np.uint8))
        arguments["run"] = [tmp_path / "a.png", "--bundle", stale, "--out", tmp_path / "out"]
    given = [*arguments[verb], "--backend", backend]
    if backend != "auto":
        code, _, stderr = cli(verb, *given)
        assert code == 4
        assert f"e2e-deploy verify {stale} --backend tensorrt --rebuild" in stderr
    code, stdout, stderr = cli(verb, *given, "--rebuild")
    assert code == 0, stderr
    assert "rebuild TensorRT plan 24x32 sm89" in stderr
    assert "tensorrt" in stdout + stderr
    (entry,) = open_bundle(stale).manifest.plans
    assert entry.version == VERSION
    code, _, stderr = cli(verb, *given, "--rebuild")
    assert code == 0
    assert "rebuild TensorRT" not in stderr


def test_what_the_message_says_works(cli, gpu, stale):
    _, _, stderr = cli("verify", stale, "--backend", "tensorrt")
    command = stderr.strip().rpartition("e2e-deploy ")[2]
    code, stdout, _ = cli(*command.split())
    assert code == 0
    assert "tensorrt (NVIDIA Fake 4090" in stdout


def test_a_named_library_gets_its_first_engine(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle", sizes=[HW, (48, 64)])
    code, _, stderr = cli("verify", root, "--rebuild")
    assert code == 2  # auto: the bundle has none
    assert "holds no plan that could be built again; name a --backend" in stderr
    code, stdout, _ = cli("verify", root, "--backend", "tensorrt", "--rebuild", "--json")
    assert code == 0
    assert [row["backend"] for row in json.loads(stdout)] == ["tensorrt"] * 2
    assert len(open_bundle(root).manifest.plans) == 2


def test_a_damaged_engine_is_built_again(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    engine = add_plan(root)
    engine.write_bytes(engine.read_bytes()[:-20])
    rehash(root, engine.relative_to(root).as_posix())
    assert cli("verify", root, "--backend", "tensorrt")[0] == 5
    assert cli("verify", root, "--backend", "tensorrt", "--rebuild")[0] == 0


def test_what_others_could_have_written_is_not(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    add_plan(root).chmod(0o666)
    code, _, stderr = cli("verify", root, "--backend", "tensorrt", "--rebuild")
    assert code == 5
    assert "can be written by other users" in stderr


def test_without_a_gpu_it_is_said(cli, stale, monkeypatch):
    monkeypatch.setattr("e2e_deploy.nvidia.cuda_driver.cuda_device_count", lambda: 0)
    code, _, stderr = cli("verify", stale, "--device", "cpu", "--rebuild")
    assert code == 0
    assert "tensorrt: not rebuilt: " in stderr
    assert cli("verify", stale, "--backend", "tensorrt", "--rebuild")[0] == 4


def test_a_backend_without_engines_is_wrong_usage(cli, stale):
    code, _, stderr = cli("verify", stale, "--backend", "onnxruntime", "--rebuild")
    assert code == 2
    assert (
        "plans are of tensorrt and tensorrt-rtx and inductor; onnxruntime has none to rebuild"
        in stderr
    )


def another_version(root, other):
    add_plan(root, version="10.13.2")


def another_gpu(root, other):
    add_plan(root, target="sm86", gpu="NVIDIA Fake 3090")


def truncated(root, other):
    engine = add_plan(root)
    engine.write_bytes(engine.read_bytes()[:-20])


def flipped(root, other):
    engine = add_plan(root)
    data = bytearray(engine.read_bytes())
    data[10] ^= 1
    engine.write_bytes(data)


def swapped(root, other):
    shutil.copy(other, add_plan(root))


def swapped_and_forged(root, other):
    engine = add_plan(root)
    shutil.copy(other, engine)
    rehash(root, engine.relative_to(root).as_posix())


def in_a_folder_others_write(root, other):
    add_plan(root).parent.chmod(0o777)


def linked_out_of_the_bundle(root, other):
    engine = add_plan(root)
    engine.unlink()
    engine.symlink_to(other)


ATTACKS = [
    (another_version, 4, "built by TensorRT 10.13.2, and 11.4.0 is installed"),
    (another_gpu, 4, "are for sm86 NVIDIA Fake 3090, and this GPU is sm89"),
    (truncated, 5, "is not the file that was exported"),
    (flipped, 5, "SHA-256 differs"),
    (swapped, 5, "is not the file that was exported"),
    (swapped_and_forged, 5, "was built from another graph"),
    (in_a_folder_others_write, 5, "can be written by other users"),
    (linked_out_of_the_bundle, 5, "reached through a link"),
]


@pytest.mark.parametrize(
    ("attack", "expected", "message"), ATTACKS, ids=[attack[0].__name__ for attack in ATTACKS]
)
def test_an_engine_that_must_not_run_is_one_sentence_and_an_exit_code(
    cli, gpu, tmp_path, attack, expected, message
):
    other = write_plain_bundle(tmp_path / "other")
    model = onnx.load(other / "model_24x32.onnx")
    model.graph.name = "another"
    onnx.save(model, other / "model_24x32.onnx")
    rehash(other, "model_24x32.onnx")
    root = write_plain_bundle(tmp_path / "bundle")
    attack(root, add_plan(other))
    code, stdout, stderr = cli("verify", root, "--backend", "tensorrt")
    assert (code, stdout) == (expected, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert gpu.live == {}


@pytest.mark.parametrize(
    ("accident", "expected", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (E2EDeployError("the plan could not be written: no space left"), 1, "no space left"),
    ],
)
def test_a_rebuild_that_ends_early_leaves_the_bundle_as_it_was(
    cli, gpu, stale, monkeypatch, accident, expected, message
):
    def stopped(*_, **__):
        raise accident

    def held():
        return {p.relative_to(stale): p.read_bytes() for p in stale.rglob("*") if p.is_file()}

    monkeypatch.setattr(replace_plan, "build_plan", stopped)
    before = held()
    code, stdout, stderr = cli("verify", stale, "--backend", "tensorrt", "--rebuild")
    assert (code, stdout) == (expected, "")
    assert message in stderr.splitlines()[-1]
    assert held() == before


def as_core(root):
    """Makes the plain bundle's graph a core graph: rgb float32 [1, 3, H, W] to depth [1, 1, H, W]."""
    path = root / "model_24x32.onnx"
    rgb, depth = [1, 3, *HW], [1, 1, *HW]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["rgb", "channel"], ["depth"])],
        "core",
        [onnx.helper.make_tensor_value_info("rgb", onnx.TensorProto.FLOAT, rgb)],
        [onnx.helper.make_tensor_value_info("depth", onnx.TensorProto.FLOAT, depth)],
        [onnx.helper.make_tensor("channel", onnx.TensorProto.INT64, [1], [1])],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    inputs = np.random.default_rng(0).random((2, *rgb[1:]), np.float32)
    reference = "reference/24x32.npz"
    np.savez(root / reference, frames=inputs, depth=inputs.mean(axis=1, keepdims=True))
    for name in (path.name, reference):
        rehash(root, name)

    def told(manifest):
        entry = manifest["graphs"][0]
        entry["kind"] = "core"
        entry["inputs"][0].update(name="rgb", dtype="float32", shape=rgb)
        entry["outputs"][0].update(shape=depth)

    edit_manifest(root, told)


def as_int8(root):
    edit_manifest(root, lambda manifest: manifest.update(precision="int8"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (as_core, "plans take frames, and this bundle holds a core graph"),
        (as_int8, "no plan is built from int8 graphs, they are for CPUs"),
    ],
)
def test_graphs_no_engine_is_built_from(cli, gpu, tmp_path, kind, message):
    root = write_plain_bundle(tmp_path / "bundle")
    kind(root)
    before = (root / "manifest.json").read_bytes()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*HW, 3), np.uint8))
    run = [tmp_path / "a.png", "--bundle", root, "--out", tmp_path / "out"]
    for verb, given in (("verify", [root]), ("run", run)):
        code, stdout, stderr = cli(verb, *given, "--backend", "tensorrt", "--rebuild")
        assert (code, stdout) == (2, "")
        assert stderr.splitlines()[-1].startswith(f"error: {message}")
    assert (root / "manifest.json").read_bytes() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("verb", "wrong", "said"),
    [
        ("run", ["--side-by-side", "--out", "folder"], "--side-by-side"),
        ("run", ["--axes", "optical"], "--axes"),
        ("bench", ["--rate", "30"], "--rate and --seconds need --loop"),
        ("bench", ["--checkpoint", "x"], "--checkpoint is what PyTorch opens"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_built(cli, gpu, stale, verb, wrong, said):
    place = ["test:", "--limit", "1", "--bundle"] if verb == "run" else []
    code, stdout, stderr = cli(verb, *place, stale, "--rebuild", *wrong)
    assert (code, stdout) == (2, "")
    assert said in stderr
    assert "rebuild TensorRT" not in stderr
    assert open_bundle(stale).manifest.plans[0].version == "10.13.2"
