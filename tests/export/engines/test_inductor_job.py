"""What is compiled for which device and when, with doubles in the place of torch's CUDA and of the compiler."""

import json
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle, sha256_of
from e2e_deploy.bundle.cpu_targets import CPU_TARGETS
from e2e_deploy.bundle.manifest import PassEntry, parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.bundle.plan_files import PACKAGE_GRAPH, PACKAGE_TENSORS
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.export.engines import build as engines
from e2e_deploy.export.engines import inductor_job as module
from e2e_deploy.export.engines.build import build_plans, opset_for
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.inductor_job import compiler, inductor_job
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.coders.swap import swap_coder
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.trt_messages import BuildError
from tests.plain_bundle import write_plain_bundle

GPU = Gpu("NVIDIA H200", "sm90", (13, 0))


def torch_with(cuda=None, version="2.13.0"):
    return SimpleNamespace(
        __version__=version,
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(is_available=lambda: cuda is not None),
    )


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(...) that has compilers, a CPU of that kind, and that torch; a GPU if one is given."""

    def has(*, cpu="x86-64-v4", torch=None, gpu=None, march=True, toolkit=tmp_path):
        cpp = SimpleNamespace(march=None) if march else SimpleNamespace()
        packages = {
            "torch": torch or torch_with(),
            "torch._inductor.config": SimpleNamespace(cpp=cpp),
            "triton": SimpleNamespace(),
        }
        monkeypatch.setenv("CUDA_HOME", str(toolkit))
        monkeypatch.setattr(module, "compiler", lambda: "g++")
        monkeypatch.setattr(module, "require", lambda name, extra: packages[name])
        monkeypatch.setattr(module, "cpu_features", lambda: " ".join(CPU_TARGETS.get(cpu, ())))
        monkeypatch.setattr(engines, "current_gpu", lambda: gpu)

    return has


@pytest.fixture
def compiled(monkeypatch):
    """Recipes of what was compiled, by a double that writes a few bytes."""
    seen = []

    def compile_apart(recipe, plan, progress):
        seen.append(recipe)
        progress("compile", 4, 4)
        plan.write_bytes(b"PK" + recipe.metadata[PACKAGE_GRAPH].encode())

    monkeypatch.setattr(module, "compile_apart", compile_apart)
    return seen


class TestCompiler:
    def test_the_one_that_cxx_names_else_the_usual_one(self, monkeypatch, tmp_path):
        for name in ("g++", "clang++", "other"):
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert compiler() in (str(tmp_path / "g++"), str(tmp_path / "clang++"))
        monkeypatch.setenv("CXX", "other")
        assert compiler() == str(tmp_path / "other")

    def test_without_one_it_is_said(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("CXX", "g++")
        with pytest.raises(UnavailableError, match=r"g\+\+ is not here: install it"):
            inductor_job(None)

    def test_one_that_does_not_run_is_said_before_a_minute_of_work(self, monkeypatch, tmp_path):
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("CXX", str(broken))
        with pytest.raises(UnavailableError, match=r"broken --version` fails .*set CXX to another"):
            inductor_job(None)


class TestJob:
    @pytest.mark.parametrize(
        ("cpu", "target"),
        [("x86-64-v3", "x86-64-v3"), ("x86-64-v4", "x86-64-v3"), ("armv8-a", "armv8-a")],
    )
    def test_a_cpu(self, machine, cpu, target):
        machine(cpu=cpu)
        job, note = inductor_job(None)
        assert (job.kind, job.version, job.target) == ("inductor", "2.13.0", target)
        assert (job.gpu_name, job.cuda, job.device, note) == ("", 0, target, "")

    def test_a_cpu_without_a_name(self, machine):
        machine(cpu="an old one")
        with pytest.raises(UnavailableError, match="compiles here for x86-64-v3 and armv8-a"):
            inductor_job(None)

    def test_a_torch_that_compiles_for_the_very_cpu(self, machine):
        machine(march=False, torch=torch_with(version="2.11.0"))
        with pytest.raises(UnavailableError, match=r"torch 2\.11\.0 .* only from 2\.13 on"):
            inductor_job(None)

    def test_a_gpu(self, machine):
        machine(torch=torch_with("13.0"), march=False)
        job, note = inductor_job(GPU)
        assert (job.target, job.gpu_name, job.cuda, note) == ("sm90", "NVIDIA H200", 13, "")
        assert job.device == "NVIDIA-H200-sm90"

    def test_a_gpu_without_the_headers_it_is_compiled_with(self, machine):
        machine(torch=torch_with("13.0"), gpu=GPU, toolkit="/nonexistent")
        with pytest.raises(
            UnavailableError, match=r"CUDA toolkit's headers, and neither CUDA_HOME"
        ):
            inductor_job(GPU)

    def test_a_gpu_that_torch_does_not_reach(self, machine):
        machine()
        job, note = inductor_job(GPU)
        assert job.target == "x86-64-v3"
        assert note == "AOTInductor builds for the CPU: torch 2.13.0 does not reach NVIDIA H200"

    def test_a_level_that_changes_nothing_is_refused(self, machine):
        machine(torch=torch_with("13.0"))
        on_gpu, (on_cpu, _) = inductor_job(GPU)[0], inductor_job(None)
        for level in (0, 1, 2, 4):
            with pytest.raises(UsageError, match=f"`level` is {level}; AOTInductor has 3 and 5"):
                on_gpu.require_level(level)
        with pytest.raises(UsageError, match="`level=5` tries kernels on a GPU"):
            on_cpu.require_level(5)
        on_gpu.require_level(5)
        on_cpu.require_level(3)

    def test_it_reads_no_onnx_graph(self, machine):
        machine()
        assert opset_for("fp16", [inductor_job(None)[0]]) == opset_for("fp16", [])


class TestPackages:
    @pytest.fixture
    def root(self, tmp_path):
        return write_plain_bundle(tmp_path / "b", sizes=[(24, 32), (48, 64)])

    @pytest.fixture
    def build(self, root, cache, small):
        """build(...) of the plain bundle's packages, as an export of the small checkpoint would."""

        def call(*, level=3, **changes):
            manifest = parse_manifest((root / "manifest.json").read_text())
            return build_plans(
                root,
                replace(manifest, **changes),
                engine="inductor",
                level=level,
                checkpoint=open_checkpoint(small),
                cache=cache,
            )

        return call

    def test_one_a_frame_size_is_built_listed_and_kept(self, machine, compiled, root, build, small):
        machine()
        built = build(precision="bf16", pad=8)
        assert [note.partition(": ")[0] for note in built.notes] == [
            "AOTInductor plan 24x32 x86-64-v3",
            "AOTInductor plan 48x64 x86-64-v3",
        ]
        manifest = parse_manifest((root / "manifest.json").read_text())
        write_manifest(root, replace(manifest, plans=built.entries))
        first, second = open_bundle(root).manifest.plans
        assert first.file == "plans/24x32-bf16-inductor-2.13.0-x86-64-v3.plan"
        assert (first.backend, first.target, first.gpu, first.cuda) == (
            *("inductor", "x86-64-v3", ""),
            0,
        )
        assert second.frame_size == [48, 64]
        assert stat.S_IMODE((root / first.file).stat().st_mode) == 0o644
        data = (root / first.file).read_bytes()
        recipe = compiled[0]
        assert data == b"PK" + recipe.metadata[PACKAGE_GRAPH].encode()
        assert json.loads(recipe.metadata[PACKAGE_TENSORS])[0] == [
            *("frame", True, "uint8"),
            [1, 24, 32, 3],
        ]
        assert (recipe.checkpoint, recipe.precision, recipe.pad) == (str(small), "bf16", 8)
        assert (recipe.specialised, recipe.device, recipe.autotune) == (False, "cpu", False)
        again = build(precision="bf16", pad=8)
        assert len(compiled) == 2
        assert [entry.seconds for entry in again.entries] == [0, 0]
        assert sha256_of(root / first.file) == open_bundle(root).manifest.files[first.file].sha256

    def test_a_specialised_bundle_is_compiled_specialised(self, machine, compiled, build):
        machine()
        entry = PassEntry(
            name="any", parameters_before=1, parameters_after=1, macs_before=1, macs_after=1
        )
        build(passes=[entry])
        assert compiled[0].specialised

    def test_the_vae_that_was_put_in_is_compiled(self, machine, compiled, root, cache, small):
        machine()
        manifest = parse_manifest((root / "manifest.json").read_text())
        for part in ("decoder", "both"):
            opened = swap_coder(open_checkpoint(small), small, part)
            options = {"engine": "inductor", "checkpoint": opened}
            build_plans(root, manifest, **options, cache=PlanCache(cache.folder / part))
            assert (compiled[-1].vae, compiled[-1].vae_part) == (str(small / "vae"), part)

    @pytest.mark.parametrize("what", ["torch", "gpu", "level", "package", "precision"])
    def test_anything_else_is_compiled_again(self, machine, compiled, build, monkeypatch, what):
        machine(torch=torch_with("13.0"), gpu=GPU)
        build()
        assert compiled[0].device == "cuda"
        given = {}
        if what == "torch":
            machine(torch=torch_with("13.0", "2.14.0"), gpu=GPU)
        elif what == "gpu":
            machine(torch=torch_with("13.0"), gpu=replace(GPU, name="NVIDIA H100"))
        elif what == "level":
            given = {"level": 5}
        elif what == "package":
            monkeypatch.setattr(module, "__version__", "another")
        else:
            given = {"precision": "bf16"}
        build(**given)
        assert len(compiled) == 4
        assert compiled[3].autotune == (what == "level")

    def test_what_does_not_compile_is_an_error_of_a_named_engine_and_a_note_of_auto(
        self, machine, root, cache, small, monkeypatch
    ):
        machine(torch=torch_with("13.0"), gpu=GPU)

        def crash(*_):
            raise BuildError("AOTInductor crashed with SIGSEGV")

        monkeypatch.setattr(module, "compile_apart", crash)
        manifest = parse_manifest((root / "manifest.json").read_text())
        given = {"checkpoint": open_checkpoint(small), "cache": cache}
        built = build_plans(root, manifest, **given)  # fp32, for which NVIDIA's are not asked
        assert built.entries == []
        assert built.notes[-1] == "no AOTInductor plan 48x64 sm90: AOTInductor crashed with SIGSEGV"
        with pytest.raises(BuildError):
            build_plans(root, manifest, engine="inductor", **given)
        assert list((root / "plans").iterdir()) == []

    def test_what_auto_was_given_for_another_builder_is_said(
        self, machine, compiled, root, cache, small
    ):
        machine(torch=torch_with("13.0"), gpu=GPU)
        manifest = parse_manifest((root / "manifest.json").read_text())
        given = {"checkpoint": open_checkpoint(small), "cache": cache}
        built = build_plans(root, manifest, level=2, workspace_bytes=2**20, **given)
        wanted = (
            "AOTInductor plan 24x32 sm90: `level` and `workspace_bytes` are TensorRT's, not its"
        )
        assert wanted in built.notes
        assert built.entries[0].options["level"] == 3
        assert built.entries[0].options["workspace_bytes"] is None
        quiet = build_plans(root, manifest, level=5, **given)
        assert not any("`level`" in note for note in quiet.notes)
        assert compiled[-1].autotune


def test_a_level_is_refused_before_the_work(machine, small, tmp_path):
    machine()
    with pytest.raises(UsageError, match="AOTInductor has 3 and 5"):
        e2e.export_bundle(small, tmp_path / "b", engine="inductor", level=2)
    assert list(tmp_path.iterdir()) == []
