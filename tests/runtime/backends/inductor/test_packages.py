"""Which packages are loaded and which are refused, before any of their code runs."""

import os
import shutil
import tempfile
import zipfile
from types import SimpleNamespace

import pytest
import torch

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.cpu_targets import CPU_TARGETS
from e2e_deploy.errors import (
    BundleError,
    E2EDeployError,
    PlanDamagedError,
    PlanMismatchError,
    UnavailableError,
    UsageError,
)
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.runtime.backends.inductor import backend as inductor_backend
from e2e_deploy.runtime.backends.inductor import on_cpu, package
from e2e_deploy.runtime.backends.inductor.backend import inspect_package
from tests import fake_gpu
from tests.fake_cuda import GPU, FakeDriver
from tests.fake_torch import FakeTorch
from tests.plain_bundle import HW, rehash, write_plain_bundle
from tests.runtime.packages import add_fake_package, list_package, load_on_gpu, says, zipped

HASWELL = " ".join(CPU_TARGETS["x86-64-v3"])
SERVER = " ".join(CPU_TARGETS["x86-64-v4"])
ON_CPU = {"version": torch.__version__, "gpu": "", "cuda": 0}


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """What reached torch's loader; it loads nothing."""
    reached, given_by_torch = [], (1, *HW)

    def load(bundle, entry, data, load):
        reached.append(entry)
        return SimpleNamespace(run=lambda tensors: [torch.zeros(given_by_torch)])

    monkeypatch.setattr(on_cpu, "load_package", load)
    return reached


@pytest.fixture
def cpu(monkeypatch):
    """cpu(features): this machine's CPU from now on."""

    def is_one(features):
        monkeypatch.setattr(package, "cpu_features", lambda: features)
        monkeypatch.setattr(package, "cpu_name", lambda: "Fake CPU")

    is_one(HASWELL)
    return is_one


def on_this_cpu(root, *, vectors="AVX2", target="x86-64-v3", **facts):
    metadata = {"device": "cpu", "AOTI_CPU_ISA": vectors}
    return add_fake_package(root, metadata=metadata, target=target, **ON_CPU | facts)


def load(root):
    return e2e.load(root, backend="inductor", device="cpu")


@pytest.mark.usefixtures("cpu")
class TestMismatch:
    def test_none(self, root, loaded):
        call = r"`rebuild_plans\('\S+', backend=\"inductor\"\)`"
        with pytest.raises(PlanMismatchError, match=f"no AOTInductor plan for 24x32; .*: {call}"):
            load(root)
        assert loaded == []

    def test_another_version_of_torch(self, root, loaded):
        on_this_cpu(root, version="2.0.0+cpu")
        with pytest.raises(PlanMismatchError, match=r"built by AOTInductor 2\.0\.0\+cpu, and 2"):
            load(root)
        assert loaded == []

    def test_a_build_of_torch_for_other_devices_is_another_version(self, root, loaded):
        on_this_cpu(root, version=torch.__version__.partition("+")[0] + "+cu999")
        with pytest.raises(PlanMismatchError, match="cu999"):
            load(root)
        assert loaded == []

    def test_a_cpu_that_lacks_the_instructions(self, root, loaded):
        on_this_cpu(root, target="x86-64-v4")
        with pytest.raises(
            PlanMismatchError,
            match=r"are for x86-64-v4, and this CPU is x86-64-v3 \(Fake CPU\); rebuild with: `rebuild_",
        ):
            load(root)
        assert loaded == []

    def test_a_cpu_without_a_name(self, root, cpu, loaded):
        on_this_cpu(root)
        cpu("")
        with pytest.raises(PlanMismatchError, match="this CPU is none of these"):
            load(root)
        assert loaded == []

    @pytest.mark.parametrize(
        ("vectors", "word"),
        [
            ("AVX512 AVX512_VNNI", "AVX512"),
            ("AVX2 AMX_TILE", "AMX_TILE"),
            ("ASIMD", "ASIMD"),
            ("SOMETHING_NEW", "SOMETHING_NEW"),
        ],
    )
    def test_a_manifest_that_says_less_than_the_package(self, root, loaded, vectors, word):
        on_this_cpu(root, vectors=vectors)
        with pytest.raises(PlanMismatchError, match=f"for a CPU with {word}, which this one has"):
            load(root)
        assert loaded == []

    def test_the_closest_to_this_cpu_is_taken(self, root, cpu, loaded):
        on_this_cpu(root)
        on_this_cpu(root, target="x86-64-v4", vectors="AVX512")
        load(root).close()
        cpu(SERVER)
        load(root).close()
        assert [entry.target for entry in loaded] == ["x86-64-v3", "x86-64-v4"]

    def test_one_for_a_gpu_is_none_for_a_cpu(self, root, loaded):
        add_fake_package(root, version=torch.__version__)
        with pytest.raises(PlanMismatchError, match="are for sm89 NVIDIA Fake 4090, and this CPU"):
            load(root)
        assert loaded == []

    @pytest.mark.parametrize(
        "gpu", [Gpu("NVIDIA Fake 3090", "sm86", GPU.cuda), Gpu("Other", GPU.target, GPU.cuda)]
    )
    def test_another_gpu(self, root, gpu):
        add_fake_package(root)
        driver = FakeDriver(gpu)
        with pytest.raises(PlanMismatchError, match=f"this GPU is {gpu.target} \\({gpu.name}\\)"):
            load_on_gpu(root, driver)
        assert "load_package" not in driver.names()
        assert driver.live == {}

    def test_one_for_a_cpu_is_none_for_a_gpu(self, root):
        on_this_cpu(root, version=FakeTorch.version)
        driver = FakeDriver()
        with pytest.raises(PlanMismatchError, match="are for x86-64-v3, and this GPU is sm89"):
            load_on_gpu(root, driver)
        assert "load_package" not in driver.names()

    def test_it_is_looked_at_without_being_loaded(self, root, loaded, monkeypatch):
        on_this_cpu(root)
        bundle = open_bundle(root)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        found = inspect_package(bundle, bundle.manifest.graphs[0])
        assert found == bundle.manifest.plans[0]
        assert loaded == []


@pytest.mark.usefixtures("cpu")
class TestAttacks:
    def test_flipped_bytes(self, root, loaded):
        file = on_this_cpu(root)
        bundle = open_bundle(root)
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
        for given in (root, bundle):
            with pytest.raises(BundleError, match="SHA-256 differs"):
                load(given)
        assert loaded == []

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "is damaged or no package of AOTInductor"),
            (b"PK\x03\x04" + bytes(40), "is damaged or no package"),
            (zipped(), "is no package of AOTInductor"),
            (zipped({"a": "b"}, {"a": "c"}), "holds parts of several packages"),
            (zipped({"a": "b" * 2**17}), "is no package"),
            (zipped(["a"]), "holds a list; expected a JSON object"),
            (zipped({}), "was built from another graph than model_24x32.onnx .*none named"),
        ],
    )
    def test_damaged_with_a_forged_hash(self, root, loaded, data, why):
        file = on_this_cpu(root)
        file.write_bytes(data)
        rehash(root, file.relative_to(root).as_posix())
        with pytest.raises(PlanDamagedError, match=f"{why}.*rebuild it with: `rebuild_plans"):
            load(root)
        assert loaded == []

    @pytest.mark.parametrize(
        "name", ["../../x", "frame/data/../../../x", "/tmp/x", "C:/x", "frame\\..\\x"]
    )
    def test_a_file_that_would_be_unpacked_elsewhere(self, root, loaded, name):
        """Torch writes it there."""
        file = on_this_cpu(root)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, "x")
        rehash(root, file.relative_to(root).as_posix())
        with pytest.raises(PlanDamagedError, match="which lies outside of it; rebuild it with"):
            load(root)
        assert loaded == []

    def test_truncated_with_a_forged_hash(self, root, loaded):
        file = on_this_cpu(root)
        file.write_bytes(file.read_bytes()[:-20])
        rehash(root, file.relative_to(root).as_posix())
        with pytest.raises(PlanDamagedError, match=r"is damaged.*rebuild it with"):
            load(root)
        assert loaded == []

    def test_swapped_with_that_of_another_bundle(self, root, tmp_path, loaded):
        """Same task, size, version and CPU, and the manifest's hash was forged: only its metadata tells."""
        file = on_this_cpu(root)
        other = write_plain_bundle(tmp_path / "other")
        onnx = other / "model_24x32.onnx"
        onnx.write_bytes(onnx.read_bytes() + b"\x12\x00")  # another graph: a producer of no name
        rehash(other, onnx.name)
        shutil.copy(on_this_cpu(other), file)
        rehash(root, file.relative_to(root).as_posix())
        with pytest.raises(PlanDamagedError, match="was built from another graph than model_24x32"):
            load(root)
        assert loaded == []

    @pytest.mark.parametrize("tensors", ["", "[]", "{", '[["frame", true, "uint8", [1, 9, 9, 3]]]'])
    def test_tensors_that_the_manifest_does_not_list(self, root, loaded, tensors):
        bundle = open_bundle(root)
        graph = bundle.manifest.graphs[0]
        told = says(root, graph, bundle.manifest, "cpu", e2e_deploy_tensors=tensors)
        list_package(root, zipped(told), graph, target="x86-64-v3", **ON_CPU)
        with pytest.raises(PlanDamagedError, match="has the tensors .* the manifest lists"):
            load(root)
        assert loaded == []

    def test_code_for_another_kind_of_device(self, root, loaded):
        add_fake_package(root, metadata={"device": "cuda"}, target="x86-64-v3", **ON_CPU)
        with pytest.raises(
            PlanDamagedError, match="compiled for cuda, and the manifest lists it for x86-64-v3"
        ):
            load(root)
        assert loaded == []

    @pytest.mark.parametrize("what", ["", "plans", "manifest.json", "package"])
    @pytest.mark.parametrize("bit", [0o002, 0o020])
    def test_what_others_can_write(self, root, loaded, what, bit):
        file = on_this_cpu(root)
        path = file if what == "package" else root / what
        path.chmod(path.stat().st_mode | bit)
        with pytest.raises(BundleError, match=r"can be written by other users.*chmod go-w"):
            load(root)
        assert loaded == []

    def test_what_belongs_to_another_user(self, root, loaded, monkeypatch):
        file = on_this_cpu(root)
        if os.geteuid() == 0:
            os.chown(file, 12345, 12345)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(BundleError, match="belongs to another user"):
            load(root)
        assert loaded == []


@pytest.mark.usefixtures("cpu")
def test_a_result_that_the_manifest_does_not_list_shows_at_load(root, monkeypatch):
    on_this_cpu(root)
    package_of_another_size = SimpleNamespace(run=lambda tensors: [torch.zeros(1, 9, 9)])
    monkeypatch.setattr(on_cpu, "load_package", lambda *_: package_of_another_size)
    with pytest.raises(
        E2EDeployError, match=r"gives torch.float32 \[1, 9, 9\], the manifest lists"
    ):
        load(root)


class TestFolder:
    def test_torch_gets_the_bytes_that_were_checked_in_a_folder_of_this_process(self, root):
        """The file in the bundle may change as soon as it was read."""
        add_fake_package(root)
        bundle = open_bundle(root)
        seen = []

        def load(file):
            seen.append((file.read_bytes(), file.parent.stat().st_mode & 0o077, file))
            return "loaded"

        assert package.load_package(bundle, bundle.manifest.plans[0], b"bytes", load) == "loaded"
        ((data, others, file),) = seen
        assert (data, others) == (b"bytes", 0)
        assert not file.exists()

    def test_no_room_to_unpack(self, root, full_disk):
        add_fake_package(root)
        bundle = open_bundle(root)
        with (
            full_disk(100),
            pytest.raises(E2EDeployError, match="cannot be unpacked in .*set TMPDIR to another"),
        ):
            package.load_package(bundle, bundle.manifest.plans[0], bytes(1000), lambda file: None)

    def test_no_room_for_what_torch_unpacks(self, root, monkeypatch):
        add_fake_package(root)
        bundle = open_bundle(root)
        monkeypatch.setattr(package.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
        with pytest.raises(E2EDeployError, match="No space left on device; free some space"):
            package.load_package(
                bundle, bundle.manifest.plans[0], zipped({"a": "b" * 100}), lambda file: None
            )

    @pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="a flag of Linux")
    def test_a_folder_from_which_no_code_is_loaded(self, root, monkeypatch):
        add_fake_package(root)
        bundle = open_bundle(root)
        mounted = SimpleNamespace(f_flag=os.ST_NOEXEC)
        monkeypatch.setattr(os, "statvfs", lambda folder: mounted)
        with pytest.raises(E2EDeployError, match="is mounted with noexec.*set TMPDIR"):
            package.load_package(bundle, bundle.manifest.plans[0], zipped(), lambda file: None)

    def test_what_torch_leaves_of_a_package_that_it_refuses(self, root, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        add_fake_package(root)
        bundle = open_bundle(root)

        def load(file):
            (tmp_path / "aotinductor_other").mkdir()
            (tmp_path / "aotinductor_Ab3dEf").mkdir()
            raise RuntimeError(f"Error in dlopen: {tmp_path}/aotinductor_Ab3dEf/frame/a.so: short")

        with pytest.raises(PlanDamagedError, match=r"a\.so: short; rebuild it with"):
            package.load_package(bundle, bundle.manifest.plans[0], b"bytes", load)
        assert [path.name for path in tmp_path.glob("*aoti*")] == ["aotinductor_other"]


@pytest.mark.usefixtures("cpu")
class TestDevice:
    @pytest.fixture
    def gpu(self, monkeypatch, tmp_path):
        monkeypatch.setattr(FakeTorch, "version", torch.__version__)
        return fake_gpu.install(monkeypatch, tmp_path / "cache", libraries=("inductor",))

    def test_auto_takes_the_gpu_for_which_there_is_a_package(self, root, gpu):
        add_fake_package(root, version=torch.__version__)
        on_this_cpu(root)
        with e2e.load(root, backend="inductor") as engine:
            assert engine.backend.device.startswith("NVIDIA Fake 4090, sm89")
        assert gpu.live == {}

    def test_auto_takes_the_cpu_where_no_package_is_for_a_gpu(self, root, gpu, monkeypatch):
        on_this_cpu(root)
        monkeypatch.setattr(inductor_backend, "InductorOnCpu", lambda *_: "the CPU's")
        assert e2e.load(root, backend="inductor").backend == "the CPU's"
        with pytest.raises(PlanMismatchError, match="this GPU is sm89"):
            e2e.load(root, backend="inductor", device="cuda")

    def test_threads_have_no_effect_on_a_gpu(self, root, gpu):
        add_fake_package(root, version=torch.__version__)
        with pytest.raises(UsageError, match="`threads` has no effect with inductor on a GPU"):
            e2e.load(root, backend="inductor", threads=2)

    def test_it_is_looked_at_without_being_loaded(self, root, gpu):
        add_fake_package(root, version=torch.__version__)
        bundle = open_bundle(root)
        found = inspect_package(bundle, bundle.manifest.graphs[0])
        assert found == bundle.manifest.plans[0]
        assert gpu.names() == ["use", "close"]

    def test_a_package_for_the_cpu_is_none_for_the_gpu_that_one_is_built_for(self, root, gpu):
        """Else the rebuild that `load` asks for would find nothing to do."""
        on_this_cpu(root)
        bundle = open_bundle(root)
        with pytest.raises(PlanMismatchError, match="this GPU is sm89"):
            inspect_package(bundle, bundle.manifest.graphs[0])

    def test_a_gpu_that_torch_does_not_reach(self, root, monkeypatch):
        away = SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
        there = SimpleNamespace(cuda=away, __version__="2.13.0+cpu")
        monkeypatch.setattr(inductor_backend, "require", lambda *_: there)
        with pytest.raises(UnavailableError, match="this machine has no CUDA device"):
            e2e.load(root, backend="inductor", device="cuda")
        monkeypatch.setattr(inductor_backend, "cuda_device_count", lambda: 1)
        with pytest.raises(UnavailableError, match=r"torch 2\.13\.0\+cpu does not reach this"):
            e2e.load(root, backend="inductor", device="cuda")
