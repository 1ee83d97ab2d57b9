"""What the C library loads while it runs: ONNX Runtime and TensorRT, missing, strange, too old; and plans."""

import os
import subprocess

import pytest

from e2e_deploy.nvidia.hardware import cuda_device_count
from tests.native.build import ROOT, program, require_tools, run
from tests.native.library import NativeError
from tests.plain_bundle import rehash, write_plain_bundle
from tests.runtime.fake_plans import add_plan

no_gpu = pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU is here, and a plan might run")


@pytest.fixture
def opens(native_build, tmp_path):
    """opens(*words, **environment): (code, text) of a plain bundle and an engine of it, in a process of its own."""
    tool = program("opens", native_build, tmp_path)
    folder = write_plain_bundle(tmp_path / "bundle")

    def call(*words, bundle=folder, **environment):
        environment = {k: str(v) for k, v in environment.items()}
        done = subprocess.run(
            [tool, *words],
            input=str(bundle),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        code, _, text = done.stdout.strip().partition(" ")
        return int(code), text

    return call


def test_the_environment_names_onnxruntime(opens, native_onnxruntime):
    assert opens(E2E_DEPLOY_ONNXRUNTIME=native_onnxruntime) == (0, "")


def test_the_systems_loader_finds_onnxruntime(opens, native_onnxruntime, tmp_path):
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "libonnxruntime.so.1").symlink_to(native_onnxruntime)
    assert opens(LD_LIBRARY_PATH=folder) == (0, "")


def test_a_name_for_the_loader_is_the_same_library_every_time(opens, native_onnxruntime, tmp_path):
    name = "libonnxruntime-of-a-robot.so"
    (tmp_path / name).symlink_to(native_onnxruntime)
    two = f"{tmp_path / 'bundle'}\n{tmp_path / 'bundle'}"
    assert opens("hashed", name, bundle=two, LD_LIBRARY_PATH=tmp_path) == (0, "\n0")


def test_a_decimal_comma_of_the_user_changes_nothing(opens, native_onnxruntime, tmp_path):
    """Programs with a window call setlocale, after which the C library reads and writes numbers as the user does."""
    require_tools("localedef")
    made = ["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"]
    if subprocess.run(made, capture_output=True).returncode:
        pytest.skip("Debian's package locales is missing, which knows what German is")
    add_plan(tmp_path / "bundle")  # its manifest has a number with a fraction
    user = {"LOCPATH": tmp_path, "LC_ALL": "de_DE.UTF-8"}
    assert opens(E2E_DEPLOY_ONNXRUNTIME=native_onnxruntime, **user) == (0, "")


def test_a_missing_onnxruntime_is_a_sentence(opens, tmp_path):
    missing = tmp_path / "libonnxruntime.so"
    code, text = opens(E2E_DEPLOY_ONNXRUNTIME=missing)
    assert code == 4
    assert text.startswith(f"ONNX Runtime does not load from E2E_DEPLOY_ONNXRUNTIME ({missing}: ")
    assert "install it, or name its file" in text


def test_another_library_is_not_taken_for_onnxruntime(opens, native_build):
    code, text = opens(E2E_DEPLOY_ONNXRUNTIME=native_build / "libe2e_deploy.so")
    assert code == 4
    assert text.endswith("is not ONNX Runtime: it has no OrtGetApiBase")


def test_an_onnxruntime_that_is_too_old_says_its_version(opens, tmp_path):
    require_tools("gcc")
    old = tmp_path / "libonnxruntime.so.1"
    source = ROOT / "tests/native/programs/old_onnxruntime.c"
    run("gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", source, "-o", old)
    code, text = opens(E2E_DEPLOY_ONNXRUNTIME=old)
    assert (code, text) == (4, f"ONNX Runtime 1.19.2 in {old} is too old; 1.20 or later is needed")


def test_onnxruntime_calls_nobody_and_leaves_the_environment_as_it_was(
    native_prefix, native_onnxruntime, tmp_path
):
    """With a home of its own: ONNX Runtime's telemetry would leave a folder there."""
    require_tools("gcc")
    (shared,) = native_prefix.glob("lib*/**/libe2e_deploy.so")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <e2e_deploy/e2e_deploy.h>\n#include <stdlib.h>\n"
        "int main(int argc, char **argv) {\n  e2e_bundle *bundle = NULL;\n  e2e_engine *engine = NULL;\n"
        "  if (argc < 2 || e2e_bundle_open(argv[1], 1, &bundle) || e2e_engine_open(bundle, NULL, &engine)) return 1;\n"
        '  return getenv("ORT_DISABLE_TELEMETRY") != NULL;\n}\n'
    )
    run(
        *("gcc", "-I", native_prefix / "include", source, "-o", tmp_path / "program", shared),
        f"-Wl,-rpath,{shared.parent}",
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "E2E_DEPLOY_ONNXRUNTIME": str(native_onnxruntime)}
    run(tmp_path / "program", write_plain_bundle(tmp_path / "bundle"), env=environment)
    assert list(home.iterdir()) == []


@pytest.fixture
def plan(tmp_path):
    """A plan of a plain bundle; nobody can run it, and it is checked before anybody would."""
    folder = write_plain_bundle(tmp_path / "bundle")
    return folder, add_plan(folder)


@no_gpu
def test_a_good_plan_needs_what_is_not_here(native, plan):
    folder, _ = plan
    with pytest.raises(NativeError, match="built without TensorRT|no NVIDIA GPU") as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 4


@no_gpu
def test_auto_says_why_a_plan_does_not_run(native, native_onnxruntime, plan):
    with native.engine(plan[0], onnxruntime=native_onnxruntime) as engine:
        assert engine.info.backend == b"onnxruntime"
        assert engine.info.reason == b"no NVIDIA GPU for the bundle's plan"
    with native.engine(plan[0], onnxruntime=native_onnxruntime, device="cpu") as engine:
        assert engine.info.reason == b"the CPU was asked for"
    with pytest.raises(NativeError, match="no NVIDIA GPU for the bundle's plan") as refused:
        native.engine(plan[0], onnxruntime=native_onnxruntime, device="cuda")
    assert refused.value.code == 4


@pytest.mark.parametrize("hash_check", [True, False])
def test_a_plan_whose_hash_is_another_is_refused(native, plan, hash_check):
    folder, file = plan
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(NativeError, match="is not the file that was exported") as refused:
        native.engine(folder, backend="tensorrt", hash_check=hash_check)
    assert refused.value.code == 5


@pytest.mark.parametrize("what", ["plan", "its folder", "manifest.json", "the bundle"])
def test_a_plan_that_others_could_have_written_is_refused(native, plan, what):
    folder, file = plan
    place = {"plan": file, "its folder": file.parent, "the bundle": folder}.get(what, folder / what)
    place.chmod(place.stat().st_mode | 0o022)
    with pytest.raises(
        NativeError, match="can be written by other users, and a plan is native code"
    ) as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 5
    assert f"chmod go-w {place}" in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_plan_of_another_user_is_refused(native, plan):
    folder, file = plan
    os.chown(file, 65534, 65534)
    with pytest.raises(NativeError, match="belongs to another user") as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 5


def test_a_plan_behind_a_link_is_refused(native, plan, tmp_path):
    folder, file = plan
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NativeError, match="reached through a link") as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 5


def test_a_bundle_without_a_plan_says_how_to_build_one(native, tmp_path):
    folder = write_plain_bundle(tmp_path / "bundle")
    with pytest.raises(
        NativeError, match="has no TensorRT plan for 24x32; build one with"
    ) as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 4


def test_a_plan_that_is_listed_anew_is_another_file(native, plan):
    """A forger who can write the manifest is kept out by the owner's check alone, as in Python."""
    folder, file = plan
    file.write_bytes(b"native code of somebody else")
    rehash(folder, str(file.relative_to(folder)))
    (folder / "manifest.json").chmod(0o666)
    with pytest.raises(NativeError, match="can be written by other users") as refused:
        native.engine(folder, backend="tensorrt")
    assert refused.value.code == 5
