import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import new_bundle
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.engines import cache as engine_cache
from e2e_deploy.export.engines import tensorrt_job
from e2e_deploy.export.engines.build import build_plans
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.system.files import whole_file
from tests.export.builds import build, nothing_was_written, write_plain_bundle
from tests.small_graphs import write_conv


@pytest.mark.rtx
class TestCache:
    def test_the_same_is_not_built_again(self, rtx, cache, tmp_path, monkeypatch):
        write_conv(tmp_path / "m.onnx")
        first, data = build(tmp_path, rtx, cache)
        (tmp_path / first.file).unlink()
        monkeypatch.setattr(tensorrt_job, "build_apart", None)  # building would fail
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
        "damage",
        ["flip", "truncate", "remove", "record", "record type", "nested", "tables", "forged"],
    )
    def test_a_damaged_entry_is_built_again(self, rtx, cache, tmp_path, damage):
        write_conv(tmp_path / "m.onnx")
        _, data = build(tmp_path, rtx, cache)
        (stored,) = cache.folder.glob("*.plan")
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
        elif damage == "nested":
            record.write_text("[" * 100_000)
        elif damage == "tables":
            record.write_text(json.dumps(json.loads(record.read_text()) | {"layers": [1]}))
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
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.build import build_plans
from e2e_deploy.bundle.manifest import parse_manifest
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
manifest = parse_manifest((root / "manifest.json").read_text())
targets = ("sm86", "sm89", "sm120")
built = build_plans(root, manifest, engine="tensorrt-rtx", targets=targets, cache=PlanCache(cache))
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
        for path in (roots[0] / "plans").iterdir():
            assert path.read_bytes() == (roots[1] / "plans" / path.name).read_bytes()
        assert len(list(cache.folder.glob("*.plan"))) == 3
        for path in cache.folder.glob("*.plan"):
            assert sha256_of(path) == path.stem
        assert {p.suffix for p in cache.folder.iterdir()} == {".plan", ".json"}

    def test_disk_full(self, rtx, cache, tmp_path, full_disk):
        write_conv(tmp_path / "m.onnx")
        with full_disk(50_000), pytest.raises(E2EDeployError, match="could not be written"):
            build(tmp_path, rtx, cache)
        nothing_was_written(tmp_path, cache)
        assert build(tmp_path, rtx, cache)[0].seconds > 0
        assert build(tmp_path, rtx, cache)[0].seconds == 0

    def test_disk_full_leaves_no_bundle(self, cache, tmp_path, full_disk):
        source = write_plain_bundle(tmp_path / "source")
        manifest = parse_manifest((source / "manifest.json").read_text())

        def export():
            with new_bundle(tmp_path / "out") as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                with full_disk(50_000):
                    build_plans(folder, manifest, engine="tensorrt-rtx", cache=cache)

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


class TestSize:
    def test_what_was_used_longest_ago_goes_first(self, cache, tmp_path, monkeypatch):
        monkeypatch.setattr(engine_cache, "MAX_BYTES", 250)
        for age, name in ((3, "a"), (1, "b"), (2, "c")):
            path = tmp_path / name
            path.write_bytes(name.encode() * 100)
            cache.store(name, path, options={}, layers={})
            os.utime(cache.folder / f"{sha256_of(path)}.plan", (1e9 - age, 1e9 - age))
        path.write_bytes(b"d" * 100)
        cache.store("d", path, options={}, layers={})
        kept = {name for name in "abcd" if cache.fetch(name, tmp_path / "out")}
        assert kept == {"b", "d"}

    def test_one_that_goes_while_it_is_copied_is_whole(self, cache, tmp_path, monkeypatch):
        plan = tmp_path / "plan"
        plan.write_bytes(b"a" * 100)
        cache.store("a", plan, options={}, layers={})

        @contextmanager
        def meanwhile(path):
            with whole_file(path) as partial:
                yield partial
            (cache.folder / f"{sha256_of(plan)}.plan").unlink()

        monkeypatch.setattr(engine_cache, "whole_file", meanwhile)
        assert cache.fetch("a", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == plan.read_bytes()
