import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest

from e2e_deploy.bundle import (
    GraphEntry,
    new_bundle,
    open_bundle,
    parse_manifest,
    sha256_of,
    write_manifest,
)
from e2e_deploy.engine_files import graph_digest, rebuild_command
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.export import engine_cache, engines
from e2e_deploy.export.engine_cache import EngineCache, private_folder
from e2e_deploy.export.engines import Job, build_engine, build_engines, plan_jobs
from e2e_deploy.export.network import BuildOptions, Network
from e2e_deploy.runtime.cuda_driver import Gpu
from e2e_deploy.trt_api import PORTABLE, TrtApi, find_api
from e2e_deploy.trt_messages import BuildError
from tests import plain_bundle
from tests.fake_cuda import fake_tensorrt
from tests.small_graphs import (
    F16,
    F32,
    F64,
    drop_unread,
    write_attention,
    write_conv,
    write_uint8_transpose,
)

SIX = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
PLAN = b"vtrt"


def write_plain_bundle(*args, **kwargs):
    return drop_unread(plain_bundle.write_plain_bundle(*args, **kwargs))


@pytest.fixture
def rtx():
    return find_api("tensorrt-rtx")


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


def graph_of(name="m.onnx"):
    return GraphEntry(
        frame_size=[16, 16],
        processing_size=[16, 16],
        onnx=name,
        reference="none",
        inputs=[],
        outputs=[],
    )


def build(
    folder, api, cache, *, target=PORTABLE, name="m.onnx", precision="fp16", gpu=None, **rest
):
    """One engine of a graph in ``folder``: (entry, bytes)."""
    options = BuildOptions(target=None if gpu else target, **rest.pop("options", {}))
    digest = graph_digest(folder, name, lambda n: sha256_of(folder / n))
    (folder / "engines").mkdir(exist_ok=True)
    entry = build_engine(
        folder,
        graph_of(name),
        Job(api, target, gpu),
        precision=precision,
        digest=digest,
        options=options,
        cache=cache,
        **rest,
    )
    return entry, (folder / entry.file).read_bytes()


def plan_of(api, path, **options):
    with Network(api, path) as network:
        plan, _ = network.build(BuildOptions(**options))
        return bytes(plan), network.decomposed


@pytest.mark.rtx
class TestBuild:
    def test_all_six_targets_and_the_portable_engine(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx")
        plans = {target: plan_of(rtx, path, target=target)[0] for target in (*SIX, PORTABLE)}
        assert all(plan.startswith(PLAN) for plan in plans.values())
        assert plans["sm75"] != plans["sm89"] != plans["sm120"]

    def test_equal_inputs_give_equal_bytes(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx")
        assert plan_of(rtx, path, target="sm89") == plan_of(rtx, path, target="sm89")
        other = write_conv(tmp_path / "n.onnx", seed=1)
        assert plan_of(rtx, path, target="sm89") != plan_of(rtx, other, target="sm89")

    def test_the_name_of_the_graph_is_in_the_engine(self, rtx, tmp_path):
        with Network(rtx, write_conv(tmp_path / "m.onnx"), "0123abcd" * 8) as network:
            plan, _ = network.build(BuildOptions())
        assert b"0123abcd" * 8 in bytes(plan)

    def test_weights_beside_the_graph_are_found(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx", beside=True)
        assert (tmp_path / "model.data").is_file()
        assert plan_of(rtx, path)[0].startswith(PLAN)

    def test_dynamic_shapes(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx", shape=[1, 3, "height", "width"])
        shapes = {"x": ((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))}
        assert plan_of(rtx, path, target="sm89", shapes=shapes)[0].startswith(PLAN)
        with pytest.raises(
            UsageError, match=r"dynamic inputs are \['x'\], shapes were given for \[\]"
        ):
            plan_of(rtx, path)
        with pytest.raises(
            UsageError, match=r"dynamic inputs are \[\], shapes were given for \['x'\]"
        ):
            plan_of(rtx, write_conv(tmp_path / "static.onnx"), shapes=shapes)

    def test_an_unknown_target(self, rtx, tmp_path):
        with pytest.raises(
            UsageError, match=r"unknown target 'sm90'; TensorRT-RTX .* builds for sm80\+, sm75"
        ):
            plan_of(rtx, write_conv(tmp_path / "m.onnx"), target="sm90")

    def test_options_reach_the_builder(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx")
        assert plan_of(rtx, path, level=0, workspace_bytes=1 << 28)[0].startswith(PLAN)

    @pytest.mark.parametrize(("dtype", "decomposed"), [(F16, 0), (F32, 1)])
    def test_attention_without_a_fused_kernel_is_split(self, rtx, tmp_path, dtype, decomposed):
        """No kernel exists in fp32, so the builder refuses it as it comes."""
        plan, count = plan_of(rtx, write_attention(tmp_path / "m.onnx", dtype=dtype), target="sm89")
        assert plan.startswith(PLAN)
        assert count == decomposed

    def test_attention_that_turns_out_to_have_no_kernel_is_split_then(self, rtx, tmp_path):
        path = write_attention(tmp_path / "m.onnx", dtype=F16, shape=[1, 1, "tokens", 512])
        shapes = {"x": ((1, 1, 64, 512), (1, 1, 256, 512), (1, 1, 1024, 512))}
        plan, count = plan_of(rtx, path, target="sm89", shapes=shapes)
        assert plan.startswith(PLAN)
        assert count == 1


@pytest.mark.rtx
class TestRefusals:
    """What NVIDIA says becomes a sentence with the node and what to do."""

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (
                lambda p: write_conv(p, dtype=F16, weight=F32),
                r"refuses the graph at node 'vae\.conv/Conv' \(Conv\): .*Half.*Float.*strongly typed",
            ),
            (
                write_uint8_transpose,
                r"at node 'frame/Transpose' \(Transpose\): .*UInt8.*uint8 has to be cast",
            ),
            (
                lambda p: write_conv(p, last="Unique"),
                r"does not support the operator Unique at node 'vae\.last/Unique'; replace it",
            ),
            (
                lambda p: write_conv(p, last="Mine"),
                r"at node 'vae\.last/Mine' \(Mine\): .*Plugin not found.*needs a plugin",
            ),
            (lambda p: p.write_bytes(b"\xff" * 500) and p, r"Failed to parse.*export again"),
            (lambda p: p, r"cannot be found.*export again"),
        ],
    )
    def test_the_parser(self, rtx, tmp_path, write, message):
        with pytest.raises(BuildError, match=message) as caught:
            Network(rtx, write(tmp_path / "m.onnx"))
        assert str(caught.value).startswith("TensorRT-RTX 1.")
        assert "checkMacros" not in str(caught.value)

    def test_missing_weights(self, rtx, tmp_path):
        path = write_conv(tmp_path / "m.onnx", beside=True)
        (tmp_path / "model.data").unlink()
        with pytest.raises(BuildError, match=r"damaged or missing: export again"):
            Network(rtx, path)

    @pytest.mark.parametrize(
        ("given", "message"),
        [({"dtype": F64}, "has type DOUBLE"), ({"opset": 26}, "uses opset 26; .* takes up to 25")],
    )
    def test_what_the_parser_lets_pass_is_caught_before(self, rtx, cache, tmp_path, given, message):
        write_conv(tmp_path / "m.onnx", **given)
        if "opset" in given:
            with Network(rtx, tmp_path / "m.onnx"):
                pass  # the parser has nothing against it
        with pytest.raises(BuildError, match=message):
            build(tmp_path, rtx, cache)

    def test_the_library_can_be_used_after_a_refusal(self, rtx, tmp_path):
        with pytest.raises(BuildError):
            Network(rtx, write_conv(tmp_path / "bad.onnx", last="Unique"))
        assert plan_of(rtx, write_conv(tmp_path / "good.onnx"))[0].startswith(PLAN)

    def test_a_builder_that_gives_up_says_why(self, rtx, tmp_path, monkeypatch):
        current = SimpleNamespace(
            SM89=rtx.module.ComputeCapability.CURRENT, __members__={"SM89": 0}
        )
        api = TrtApi(
            "tensorrt-rtx", SimpleNamespace(**{**vars(rtx.module), "ComputeCapability": current})
        )
        with pytest.raises(
            UnavailableError, match=r"cannot build the engine: .*cudaError 35.*needs a GPU"
        ):
            plan_of(api, write_conv(tmp_path / "m.onnx"), target="sm89")


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
        self.nothing_was_written(tmp_path, cache)
        build(tmp_path, rtx, cache)

    def test_ctrl_c(self, rtx, cache, tmp_path):
        write_conv(tmp_path / "m.onnx")
        before, steps = signal.getsignal(signal.SIGINT), []

        def press(phase, step, count):
            steps.append(step)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, rtx, cache, progress=press)
        assert 3 <= len(steps) < 10
        assert signal.getsignal(signal.SIGINT) is before
        self.nothing_was_written(tmp_path, cache)
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
                build_engines(folder, manifest, engine="tensorrt-rtx", cache=cache, progress=press)

        with pytest.raises(KeyboardInterrupt):
            export()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "source"]

    @staticmethod
    def nothing_was_written(folder, cache):
        assert list((folder / "engines").iterdir()) == []
        assert list(cache.folder.iterdir()) == []


@pytest.mark.rtx
class TestCache:
    def test_the_same_is_not_built_again(self, rtx, cache, tmp_path, monkeypatch):
        write_conv(tmp_path / "m.onnx")
        first, data = build(tmp_path, rtx, cache)
        (tmp_path / first.file).unlink()
        monkeypatch.setattr(engines, "Network", None)  # building would fail
        second, again = build(tmp_path, rtx, cache)
        assert again == data
        assert second == replace(first, seconds=0.0)

    @pytest.mark.parametrize(
        "what", ["graph", "weights", "target", "level", "workspace", "precision", "version"]
    )
    def test_anything_else_is(self, rtx, cache, tmp_path, what):
        write_conv(tmp_path / "m.onnx", beside=True)
        build(tmp_path, rtx, cache)
        given = {}
        if what == "graph":
            write_conv(tmp_path / "m.onnx", last="Sigmoid", beside=True)
        elif what == "weights":
            before = (tmp_path / "m.onnx").read_bytes()
            write_conv(tmp_path / "m.onnx", seed=1, beside=True)
            (tmp_path / "m.onnx").write_bytes(before)
        elif what == "target":
            given = {"target": "sm89"}
        elif what == "level":
            given = {"options": {"level": 1}}
        elif what == "workspace":
            given = {"options": {"workspace_bytes": 1 << 28}}
        elif what == "precision":
            given = {"precision": "fp32"}
        else:
            rtx = TrtApi(rtx.name, rtx.module)
            rtx.version = "1.7.2"
        entry, _ = build(tmp_path, rtx, cache, **given)
        assert entry.seconds > 0
        assert len(list(cache.folder.glob("*.json"))) == 2

    def test_other_shapes_are_another_engine(self, rtx, cache, tmp_path):
        write_conv(tmp_path / "m.onnx", shape=[1, 3, "height", "width"])
        for largest in (32, 64):
            shapes = {"x": ((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, largest, largest))}
            entry, _ = build(tmp_path, rtx, cache, options={"shapes": shapes})
            assert entry.seconds > 0

    @pytest.mark.parametrize(
        "damage", ["flip", "truncate", "remove", "record", "record type", "forged"]
    )
    def test_a_damaged_entry_is_built_again(self, rtx, cache, tmp_path, damage):
        write_conv(tmp_path / "m.onnx")
        _, data = build(tmp_path, rtx, cache)
        (stored,) = cache.folder.glob("*.engine")
        (record,) = cache.folder.glob("*.json")
        if damage == "flip":
            stored.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
        elif damage == "truncate":
            stored.write_bytes(data[:-100])
        elif damage == "remove":
            stored.unlink()
        elif damage == "record":
            record.write_text("{")
        elif damage == "record type":
            record.write_text("[1]")
        else:
            record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": "../../x"}))
        entry, again = build(tmp_path, rtx, cache)
        assert again == data
        assert entry.seconds > 0
        (record,) = cache.folder.glob("*.json")
        entry, again = build(tmp_path, rtx, cache)
        assert (entry.seconds, again) == (0.0, data)

    def test_two_exports_at_once(self, cache, tmp_path):
        script = """
import sys
from pathlib import Path
from e2e_deploy.export.engine_cache import EngineCache
from e2e_deploy.export.engines import build_engines
from e2e_deploy.bundle import parse_manifest
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
manifest = parse_manifest((root / "manifest.json").read_text())
targets = ("sm86", "sm89", "sm120")
built = build_engines(root, manifest, engine="tensorrt-rtx", targets=targets, cache=EngineCache(cache))
print(len(built.entries))
"""
        roots = [write_plain_bundle(tmp_path / name) for name in ("one", "two")]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, root, cache.folder],
                stdout=subprocess.PIPE,
                text=True,
            )
            for root in roots
        ]
        assert [process.communicate(timeout=120)[0].strip() for process in running] == ["3", "3"]
        for path in (roots[0] / "engines").iterdir():
            assert path.read_bytes() == (roots[1] / "engines" / path.name).read_bytes()
        assert len(list(cache.folder.glob("*.engine"))) == 3
        for path in cache.folder.glob("*.engine"):
            assert sha256_of(path) == path.stem
        assert {p.suffix for p in cache.folder.iterdir()} == {".engine", ".json"}

    def test_disk_full(self, rtx, cache, tmp_path, full_disk):
        write_conv(tmp_path / "m.onnx")
        with full_disk(50_000), pytest.raises(E2EDeployError, match="could not be written"):
            build(tmp_path, rtx, cache)
        TestProgress.nothing_was_written(tmp_path, cache)
        assert build(tmp_path, rtx, cache)[0].seconds > 0
        assert build(tmp_path, rtx, cache)[0].seconds == 0

    def test_disk_full_leaves_no_bundle(self, cache, tmp_path, full_disk):
        source = write_plain_bundle(tmp_path / "source")
        manifest = parse_manifest((source / "manifest.json").read_text())

        def export():
            with new_bundle(tmp_path / "out") as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                with full_disk(50_000):
                    build_engines(folder, manifest, cache=cache)

        with pytest.raises(E2EDeployError, match="could not be written"):
            export()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "source"]

    def test_a_cache_that_is_full_is_no_error(self, rtx, cache, tmp_path, monkeypatch):
        write_conv(tmp_path / "m.onnx")

        def full(path):
            raise E2EDeployError("no space left")

        monkeypatch.setattr(engine_cache, "whole_file", full)
        assert build(tmp_path, rtx, cache)[0].seconds > 0
        assert list(cache.folder.iterdir()) == []


class TestFolder:
    def test_it_is_this_users_alone(self, tmp_path):
        folder = tmp_path / "a" / "b"
        assert private_folder(folder).stat().st_mode & 0o777 == 0o700
        folder.chmod(0o777)
        assert private_folder(folder).stat().st_mode & 0o777 == 0o700

    def test_links_and_others_folders_are_refused(self, tmp_path, monkeypatch):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(E2EDeployError, match="is a link or belongs to another user"):
            private_folder(tmp_path / "link")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(E2EDeployError, match="is a link or belongs to another user"):
            private_folder(tmp_path / "real")
        (tmp_path / "file").write_text("")
        with pytest.raises(E2EDeployError, match="cannot be used"):
            private_folder(tmp_path / "file" / "cache")

    def test_what_was_used_longest_ago_goes_first(self, cache, tmp_path, monkeypatch):
        monkeypatch.setattr(engine_cache, "MAX_BYTES", 250)
        for age, name in ((3, "a"), (1, "b"), (2, "c")):
            path = tmp_path / name
            path.write_bytes(name.encode() * 100)
            cache.store(name, path, options={}, layers={})
            os.utime(cache.folder / f"{sha256_of(path)}.engine", (1e9 - age, 1e9 - age))
        path.write_bytes(b"d" * 100)
        cache.store("d", path, options={}, layers={})
        kept = {name for name in "abcd" if cache.fetch(name, tmp_path / "out")}
        assert kept == {"b", "d"}


def _no(library):
    raise UnavailableError(f"the package {library!r} is not installed")


class TestPlan:
    @pytest.fixture
    def machine(self, monkeypatch):
        """machine(gpu, *libraries) that are here."""
        module = fake_tensorrt()

        def has(gpu, *libraries):
            found = {name: TrtApi(name, module) for name in libraries}
            for api in found.values():
                if api.name == "tensorrt-rtx":
                    type(module.IBuilderConfig)
                    module.IBuilderConfig.num_compute_capabilities = 0
                    members = {"NONE": 0, "CURRENT": 1, "SM75": 2, "SM89": 3}
                    module.ComputeCapability = SimpleNamespace(__members__=members)
            monkeypatch.setattr(engines, "current_gpu", lambda: gpu)
            monkeypatch.setattr(engines, "find_api", lambda name: found.get(name) or _no(name))

        return has

    GPU = Gpu("NVIDIA H100", "sm90", (13, 0))

    @pytest.mark.parametrize(
        ("gpu", "libraries", "wanted", "notes"),
        [
            (GPU, ("tensorrt", "tensorrt-rtx"), [("tensorrt", "sm90")], []),
            (
                GPU,
                ("tensorrt-rtx",),
                [("tensorrt-rtx", PORTABLE)],
                ["no TensorRT engine: the package"],
            ),
            (
                None,
                ("tensorrt", "tensorrt-rtx"),
                [("tensorrt-rtx", PORTABLE)],
                ["no TensorRT engine: Tens"],
            ),
            (None, (), [], ["no TensorRT engine: ", "no TensorRT-RTX engine: the package"]),
        ],
    )
    def test_auto(self, machine, gpu, libraries, wanted, notes):
        machine(gpu, *libraries)
        jobs, said = plan_jobs("auto")
        assert [(job.api.name, job.target) for job in jobs] == wanted
        assert len(said) == len(notes)
        assert all(text.startswith(start) for text, start in zip(said, notes, strict=True))

    def test_targets_mean_tensorrt_rtx(self, machine):
        machine(self.GPU, "tensorrt", "tensorrt-rtx")
        for engine in ("auto", "tensorrt-rtx"):
            jobs, notes = plan_jobs(engine, ["sm89", "sm75", "sm89"])
            assert [(job.api.name, job.target) for job in jobs] == [
                ("tensorrt-rtx", "sm89"),
                ("tensorrt-rtx", "sm75"),
            ]
            assert notes == []

    @pytest.mark.parametrize(
        ("engine", "targets", "message"),
        [
            ("trt", [], "unknown engine 'trt'"),
            ("onnx", ["sm89"], "ONNX has none"),
            ("tensorrt", ["sm89"], "builds for the GPU at hand"),
            ("tensorrt-rtx", ["sm90"], r"unknown target 'sm90'.*sm80\+, sm75, sm89"),
        ],
    )
    def test_wrong_use(self, machine, engine, targets, message):
        machine(self.GPU, "tensorrt", "tensorrt-rtx")
        with pytest.raises(UsageError, match=message):
            plan_jobs(engine, targets)

    @pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
    def test_a_named_engine_that_cannot_be_built_is_an_error(self, machine, engine):
        machine(None)
        with pytest.raises(UnavailableError):
            plan_jobs(engine)

    def test_onnx_builds_none(self, tmp_path):
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        assert build_engines(root, manifest, engine="onnx") == engines.Engines()
        assert not (root / "engines").exists()

    def test_a_level_out_of_range(self, tmp_path):
        with pytest.raises(UsageError, match="0 to 5, not 6"):
            build_engines(tmp_path, None, level=6)


@pytest.mark.rtx
class TestBundle:
    def test_engines_for_every_graph_and_target_are_in_the_bundle(self, tmp_path, cache):
        root = write_plain_bundle(tmp_path / "b", sizes=[(24, 32), (48, 64)])
        manifest = parse_manifest((root / "manifest.json").read_text())
        built = build_engines(
            root, manifest, engine="tensorrt-rtx", targets=["sm86", "sm89"], cache=cache
        )
        assert [note.rsplit(" in ")[0] for note in built.notes] == [
            f"TensorRT-RTX engine {size} {target}: built"
            for size in ("24x32", "48x64")
            for target in ("sm86", "sm89")
        ]
        write_manifest(root, replace(manifest, engines=built.entries))
        held = open_bundle(root).manifest
        assert held.engines == built.entries
        entry = held.engines[3]
        assert entry.file == f"engines/48x64-fp32-tensorrt-rtx-{entry.version}-sm89.engine"
        assert entry.file in held.files
        assert (entry.frame_size, entry.gpu, entry.layers) == ([48, 64], "", {})
        assert entry.options == {"level": 3, "workspace_bytes": None, "decomposed_attention": 0}

    def test_auto_notes_what_does_not_build_and_a_named_engine_raises(self, tmp_path, cache):
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        model = onnx.load(root / "model_24x32.onnx")
        model.graph.node[-1].op_type = "Unique"
        onnx.save(model, root / "model_24x32.onnx")
        built = build_engines(root, manifest, targets=["sm89"], cache=cache)
        assert built.entries == []
        assert "no TensorRT-RTX engine 24x32 sm89: " in built.notes[-1]
        assert "Unique" in built.notes[-1]
        with pytest.raises(BuildError, match="Unique"):
            build_engines(root, manifest, engine="tensorrt-rtx", cache=cache)

    def test_the_rebuild_command(self, tmp_path):
        root = write_plain_bundle(tmp_path / "b")
        manifest = parse_manifest((root / "manifest.json").read_text())
        entry = replace(manifest.checkpoint, id="bundled:e2e-tiny-depth")
        bundled = replace(manifest, checkpoint=entry)
        assert rebuild_command(bundled, manifest.graphs[0], "tensorrt-rtx", "sm89") == (
            "e2e-deploy export --task depth --precision fp32 --frame-size 24x32 --resolution 0 "
            "--engine tensorrt-rtx --target sm89"
        )
        odd = replace(manifest, checkpoint=replace(entry, id="my model; rm"))
        assert "export 'my model; rm' " in rebuild_command(
            odd, manifest.graphs[0], "tensorrt", "sm89"
        )
        assert "--target" not in rebuild_command(odd, manifest.graphs[0], "tensorrt", "sm89")


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
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setattr(engines, "_layers", lambda job, file: {"layers": 2})
        write_conv(tmp_path / "m.onnx")
        gpu = Gpu("NVIDIA H100 80GB/HBM3", "sm90", (13, 0))
        entry, data = build(tmp_path, api, cache, target="sm90", gpu=gpu)
        assert data.startswith(PLAN)
        assert (entry.backend, entry.target, entry.gpu) == ("tensorrt", "sm90", gpu.name)
        assert entry.layers == {"layers": 2}
        (timings,) = (tmp_path / "xdg/e2e-deploy/timing").iterdir()
        assert timings.name == f"tensorrt-{api.version}-NVIDIA-H100-80GB-HBM3-sm90.cache"
        assert timings.parent.stat().st_mode & 0o777 == 0o700
        assert timings.stat().st_size > 0
        again, _ = build(tmp_path, api, cache, target="sm90", gpu=gpu, options={"level": 1})
        assert again.seconds > 0

    def test_it_takes_no_target(self, api, tmp_path):
        with pytest.raises(UsageError, match="builds for the GPU at hand"):
            plan_of(api, write_conv(tmp_path / "m.onnx"), target="sm89")


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize(("task", "precision"), [("depth", "fp16"), ("normals", "fp32")])
def test_e2e_tiny_builds(task, precision, rtx, cache, tmp_path):
    """The real graph, from frame to result: fp16, and fp32 where the network allows it."""
    import torch

    from e2e_deploy.checkpoint import open_checkpoint
    from e2e_deploy.export import onnx_export
    from e2e_deploy.export.precision import to_precision
    from e2e_deploy.export.specialise import specialise
    from e2e_deploy.frames import plan_frame
    from e2e_deploy.loading import load_model
    from e2e_deploy.model import FrameModel
    from e2e_deploy.tiny import bundled_checkpoint

    class CastFirst(FrameModel):
        """uint8 has to be cast before anything else is done with it."""

        def to_network(self, frame_NHW3):
            return super().to_network(frame_NHW3.float())

    model = load_model(open_checkpoint(bundled_checkpoint(task)))
    plan = plan_frame((96, 128), 128, model.stride)
    special = to_precision(specialise(model)[0], precision)
    frame = torch.zeros(1, 96, 128, 3, dtype=torch.uint8)
    graph = onnx_export.trace(
        CastFirst(special, plan, task).eval(), frame, input_name="frame", output_name=task
    )
    onnx_export.save(graph, tmp_path / "m.onnx")
    entry, data = build(tmp_path, rtx, cache, target="sm89", precision=precision)
    assert data.startswith(PLAN)
    assert entry.options["decomposed_attention"] == 0  # opset 20 has no Attention
    assert build(tmp_path, rtx, cache, target="sm89", precision=precision)[0].seconds == 0
    if task == "depth":
        (tmp_path / entry.file).unlink()
        shutil.rmtree(cache.folder)
        fresh = EngineCache(cache.folder)
        assert build(tmp_path, rtx, fresh, target="sm89", precision=precision)[1] == data
