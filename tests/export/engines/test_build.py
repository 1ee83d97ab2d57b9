import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import new_bundle, write_manifest
from e2e_deploy.bundle.plan_files import rebuild_call, require_private
from e2e_deploy.cli.wording import with_options
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.export.engines import build as engines
from e2e_deploy.export.engines import tensorrt_job
from e2e_deploy.export.engines.build import build_plans, opset_for, plan_jobs
from e2e_deploy.export.engines.builder import build_here
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.inductor_job import InductorJob
from e2e_deploy.export.engines.tensorrt_job import trt_job
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.trt_api import PORTABLE, TrtApi
from e2e_deploy.nvidia.trt_messages import BuildError
from tests.export.builds import PLAN, build, nothing_was_written, plan_of, write_plain_bundle
from tests.fake_cuda import fake_tensorrt
from tests.small_graphs import write_conv


@pytest.mark.rtx
class TestProgress:
    def test_it_is_told_phases_and_steps(self, rtx, cache, tmp_path):
        write_conv(tmp_path / "m.onnx")
        seen = []
        build(tmp_path, rtx, cache, progress=lambda *told: seen.append(told))
        assert any(phase == "Building engine" and 0 <= step < steps for phase, step, steps in seen)

    def test_what_it_raises_ends_the_build(self, rtx, cache, tmp_path):
        write_conv(tmp_path / "m.onnx")

        def enough(phase, step, steps):
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            build(tmp_path, rtx, cache, progress=enough)
        nothing_was_written(tmp_path, cache)
        build(tmp_path, rtx, cache)

    @pytest.fixture
    def sigint(self):
        """Ctrl-C as in a terminal: whoever starts the tests in the background has it ignored."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.usefixtures("sigint")
    def test_ctrl_c(self, rtx, cache, tmp_path):
        write_conv(tmp_path / "m.onnx")
        steps = []

        def press(phase, step, count):
            steps.append(step)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, rtx, cache, progress=press)
        assert len(steps) == 3
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        nothing_was_written(tmp_path, cache)
        entry, data = build(tmp_path, rtx, cache)
        assert data.startswith(PLAN)
        assert entry.seconds > 0

    def test_ctrl_c_leaves_no_bundle(self, rtx, cache, tmp_path):
        source = write_plain_bundle(tmp_path / "source")
        manifest = parse_manifest((source / "manifest.json").read_text())

        def press(*_):
            raise KeyboardInterrupt

        def export():
            with new_bundle(tmp_path / "out") as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                build_plans(folder, manifest, engine="tensorrt-rtx", cache=cache, progress=press)

        with pytest.raises(KeyboardInterrupt):
            export()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "source"]


def test_without_a_cache_folder_engines_are_built_all_the_same(rtx, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    root = write_plain_bundle(tmp_path / "b")
    manifest = parse_manifest((root / "manifest.json").read_text())
    done = build_plans(root, manifest, engine="tensorrt-rtx")
    assert [(root / entry.file).read_bytes()[: len(PLAN)] for entry in done.entries] == [PLAN]
    assert "plans are not kept for later exports: the cache folder" in done.notes[0]


def _no(library):
    raise UnavailableError(f"the package {library!r} is not installed")


def package_job(gpu):
    """What the compiler would build on a machine with that GPU, if torch reaches it."""
    place = {"target": gpu.target, "cuda": 13} if gpu else {"target": "x86-64-v3", "cuda": 0}
    return InductorJob(kind="inductor", version="2.13.0", gpu=gpu, cpu_target="x86-64-v3", **place)


def _refuse(*args, **kwargs):
    raise BuildError("the builder was asked")


class TestPlan:
    @pytest.fixture
    def machine(self, monkeypatch):
        """machine(gpu, *libraries) that are here, and a torch with or without CUDA."""

        def has(gpu, *libraries, cuda=True):
            found = {name: TrtApi(name, fake_tensorrt()) for name in libraries}
            if rtx := found.get("tensorrt-rtx"):
                rtx.module.IBuilderConfig.num_compute_capabilities = 0
                members = {"NONE": 0, "CURRENT": 1, "SM75": 2, "SM89": 3}
                rtx.module.ComputeCapability = SimpleNamespace(__members__=members)
            compiled = package_job(gpu if cuda else None)
            monkeypatch.setattr(engines, "inductor_job", lambda _: (compiled, ""))
            monkeypatch.setattr(engines, "current_gpu", lambda: gpu)
            monkeypatch.setattr(engines, "find_api", lambda name: found.get(name) or _no(name))

        return has

    GPU = Gpu("NVIDIA H100", "sm90", (13, 0))
    RTX_GPU = Gpu("NVIDIA RTX 4090", "sm89", (13, 0))

    @pytest.mark.parametrize(
        ("gpu", "libraries", "wanted", "notes"),
        [
            (GPU, ("tensorrt", "tensorrt-rtx"), [("tensorrt", "sm90")], []),
            (
                RTX_GPU,
                ("tensorrt-rtx",),
                [("tensorrt-rtx", PORTABLE)],
                ["no TensorRT plan: the package"],
            ),
            (
                GPU,
                ("tensorrt-rtx",),
                [("inductor", "sm90")],
                [
                    "no TensorRT plan: the package",
                    "no TensorRT-RTX plan: TensorRT-RTX does not serve this GPU, NVIDIA H100",
                ],
            ),
            (
                RTX_GPU,
                (),
                [("inductor", "sm89")],
                ["no TensorRT plan: the package", "no TensorRT-RTX plan: the package"],
            ),
            (
                None,
                ("tensorrt", "tensorrt-rtx"),
                [("tensorrt-rtx", PORTABLE)],
                ["no TensorRT plan: Tens"],
            ),
            (None, (), [], ["no TensorRT plan: ", "no TensorRT-RTX plan: the package"]),
        ],
    )
    def test_auto(self, machine, gpu, libraries, wanted, notes):
        machine(gpu, *libraries)
        jobs, said = plan_jobs("auto")
        assert [(job.kind, job.target) for job in jobs] == wanted
        assert len(said) == len(notes)
        assert all(text.startswith(start) for text, start in zip(said, notes, strict=True))

    def test_auto_compiles_nothing_for_a_gpu_that_torch_does_not_reach(self, machine):
        machine(self.GPU, cuda=False)
        jobs, notes = plan_jobs("auto")
        assert jobs == []
        assert notes[-1] == "no AOTInductor plan: torch 2.13.0 does not reach NVIDIA H100"
        assert [job.target for job in plan_jobs("inductor")[0]] == ["x86-64-v3"]

    def test_auto_in_fp32_compiles_for_a_gpu_what_nvidia_builds_worse(self, machine):
        machine(self.GPU, "tensorrt", "tensorrt-rtx")
        jobs, (note,) = plan_jobs("auto", precision="fp32")
        assert [(job.kind, job.target) for job in jobs] == [("inductor", "sm90")]
        assert "no fused attention" in note
        machine(None, "tensorrt", "tensorrt-rtx")
        assert plan_jobs("auto", precision="fp32")[0] == []

    def test_targets_mean_tensorrt_rtx(self, machine):
        machine(self.GPU, "tensorrt", "tensorrt-rtx")
        for engine in ("auto", "tensorrt-rtx"):
            jobs, notes = plan_jobs(engine, ["sm89", "sm75", "sm89"])
            assert [(job.api.name, job.target) for job in jobs] == [
                ("tensorrt-rtx", "sm89"),
                ("tensorrt-rtx", "sm75"),
            ]
            assert notes == []

    def test_a_named_plan_is_built_for_other_machines_where_the_gpu_is_not_served(self, machine):
        machine(self.GPU, "tensorrt-rtx")
        jobs, (note,) = plan_jobs("tensorrt-rtx")
        assert [(job.api.name, job.target) for job in jobs] == [("tensorrt-rtx", PORTABLE)]
        assert "for other machines: TensorRT-RTX does not serve this GPU" in note
        assert '`engine="inductor"`' in note
        machine(self.RTX_GPU, "tensorrt-rtx")
        assert plan_jobs("tensorrt-rtx")[1] == []

    def test_an_unknown_target(self, machine):
        machine(self.GPU, "tensorrt-rtx")
        with pytest.raises(UsageError, match=r"unknown target 'sm90'.*sm80\+, sm75, sm89"):
            plan_jobs("tensorrt-rtx", ["sm90"])

    @pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
    def test_a_named_engine_that_cannot_be_built_is_an_error(self, machine, engine):
        machine(None)
        with pytest.raises(UnavailableError):
            plan_jobs(engine)

    @pytest.mark.parametrize(("precision", "why"), [("fp32", "no fused"), ("int8", "for a CPU")])
    def test_auto_builds_none_where_it_would_not_pay_unless_a_target_is_named(
        self, machine, tmp_path, monkeypatch, precision, why
    ):
        machine(self.GPU, "tensorrt", "tensorrt-rtx", cuda=False)
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        manifest = replace(manifest, precision=precision)
        note, *_ = build_plans(root, manifest).notes
        assert note.startswith("no TensorRT plan: " if precision == "fp32" else "no plan: ")
        assert why in note
        monkeypatch.setattr(engines, "build_plan", _refuse)
        tried = build_plans(root, manifest, targets=["sm89"], cache=PlanCache(tmp_path / "c"))
        assert tried.notes == ["no TensorRT-RTX plan 24x32 sm89: the builder was asked"]
        half = build_plans(
            root, replace(manifest, precision="fp16"), cache=PlanCache(tmp_path / "c")
        )
        assert half.notes == ["no TensorRT plan 24x32 sm90: the builder was asked"]

    @pytest.mark.parametrize(
        ("name", "version", "opset"),
        [
            (None, "", 20),
            ("tensorrt", "10.13", 20),
            ("tensorrt", "11.4", 23),
            ("tensorrt-rtx", "1.7", 21),
        ],
    )
    def test_the_operator_set_is_the_librarys(self, name, version, opset):
        jobs = [trt_job(TrtApi(name, fake_tensorrt(version)), "sm89", None)] if name else []
        assert opset_for("fp16", jobs) == opset
        assert opset_for("bf16", jobs) == max(22, opset)

    def test_onnx_builds_none(self, tmp_path):
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        assert build_plans(root, manifest, engine="onnx") == engines.Plans()
        assert not (root / "plans").exists()


@pytest.mark.rtx
class TestBundle:
    def test_engines_for_every_graph_and_target_are_in_the_bundle(self, tmp_path, cache):
        root = write_plain_bundle(tmp_path / "b", sizes=[(24, 32), (48, 64)])
        manifest = parse_manifest((root / "manifest.json").read_text())
        built = build_plans(
            root, manifest, engine="tensorrt-rtx", targets=["sm86", "sm89"], cache=cache
        )
        assert [note.rsplit(" in ")[0] for note in built.notes] == [
            f"TensorRT-RTX plan {size} {target}: built"
            for size in ("24x32", "48x64")
            for target in ("sm86", "sm89")
        ]
        write_manifest(root, replace(manifest, plans=built.entries))
        held = open_bundle(root).manifest
        assert held.plans == built.entries
        entry = held.plans[3]
        assert entry.file == f"plans/48x64-fp32-tensorrt-rtx-{entry.version}-sm89.plan"
        assert entry.file in held.files
        assert (entry.frame_size, entry.gpu, entry.layers) == ([48, 64], "", {})
        counted = entry.options.pop("network")
        assert entry.options == {"level": 3, "workspace_bytes": None, "decomposed_attention": 0}
        assert counted == {"cast": 1, "fp32": counted["layers"], "layers": counted["layers"]}

    def test_auto_notes_what_does_not_build_and_a_named_engine_raises(self, tmp_path, cache):
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        model = onnx.load(root / "model_24x32.onnx")
        model.graph.node[-1].op_type = "Unique"
        onnx.save(model, root / "model_24x32.onnx")
        built = build_plans(root, manifest, targets=["sm89"], cache=cache)
        assert built.entries == []
        assert "no TensorRT-RTX plan 24x32 sm89: " in built.notes[-1]
        assert "Unique" in built.notes[-1]
        with pytest.raises(BuildError, match="Unique"):
            build_plans(root, manifest, engine="tensorrt-rtx", cache=cache)

    def test_the_call_that_rebuilds_and_its_command(self, tmp_path):
        call = rebuild_call(tmp_path / "my bundle; rm", "tensorrt-rtx")
        assert call == f"`rebuild_plans('{tmp_path}/my bundle; rm', backend=\"tensorrt-rtx\")`"
        assert with_options(call) == (
            f"e2e-deploy verify '{tmp_path}/my bundle; rm' --backend tensorrt-rtx --rebuild"
        )

    def test_nobody_else_may_write_what_was_built_whatever_the_umask(self, tmp_path, cache):
        before = os.umask(0o002)
        try:
            root = write_plain_bundle(tmp_path / "b")
            manifest = parse_manifest((root / "manifest.json").read_text())
            for _ in range(2):  # built, then from the cache
                (entry,) = build_plans(root, manifest, engine="tensorrt-rtx", cache=cache).entries
                write_manifest(root, replace(manifest, plans=[entry]))
                require_private(root, entry.file)
        finally:
            os.umask(before)


@pytest.mark.rtx
class TestTensorrtPath:
    """TensorRT cannot be had without a GPU: its path through the builder, walked with TensorRT-RTX underneath."""

    @pytest.fixture
    def api(self, rtx):
        class Config(rtx.module.IBuilderConfig):
            pass

        known = {n for n in dir(Config) if not n.endswith("compute_capabilities")}
        config = SimpleNamespace(**{name: None for name in known if not name.startswith("__")})
        module = SimpleNamespace(**{**vars(rtx.module), "IBuilderConfig": config})
        api = TrtApi("tensorrt", module)
        assert not api.builds_without_gpu
        return api

    @pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
    def test_timings_are_kept_in_a_private_folder_by_version_and_gpu(
        self, api, cache, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(tensorrt_job, "count_layers", lambda job, file: {"layers": 2})
        monkeypatch.setattr(tensorrt_job, "build_apart", lambda _, *rest: build_here(api, *rest))
        write_conv(tmp_path / "m.onnx")
        gpu = Gpu("NVIDIA H100 80GB/HBM3", "sm90", (13, 0))
        entry, data = build(tmp_path, api, cache, target="sm90", gpu=gpu)
        assert data.startswith(PLAN)
        assert (entry.backend, entry.target, entry.gpu) == ("tensorrt", "sm90", gpu.name)
        assert entry.layers == {"layers": 2}
        (timings,) = cache.folder.with_name("timing").iterdir()
        assert timings.name == f"tensorrt-{api.version}-NVIDIA-H100-80GB-HBM3-sm90.cache"
        assert timings.parent.stat().st_mode & 0o777 == 0o700
        assert timings.stat().st_size > 0
        again, _ = build(tmp_path, api, cache, target="sm90", gpu=gpu, options={"level": 1})
        assert again.seconds > 0

    def test_it_takes_no_target(self, api, tmp_path):
        with pytest.raises(UsageError, match="builds for the GPU at hand"):
            plan_of(api, write_conv(tmp_path / "m.onnx"), target="sm89")
