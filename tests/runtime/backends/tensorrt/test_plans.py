"""Which plan of a bundle is loaded, and which are refused."""

import json
import os
import shutil

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, PlanDamagedError, PlanMismatchError, UnavailableError
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.runtime.backends.plans import choose_plan, place_of
from e2e_deploy.runtime.backends.tensorrt.backend import TrtBackend
from tests.fake_cuda import GPU, FakeDriver, fake_tensorrt
from tests.plain_bundle import HW, edit_manifest, rehash, write_plain_bundle
from tests.runtime.fake_plans import VERSION, add_plan, load


class TestMismatch:
    def test_no_engine(self, root):
        with pytest.raises(
            PlanMismatchError,
            match=r"no TensorRT plan for 24x32; build one with: `rebuild_plans\('\S+', backend=\"tensorrt\"\)`",
        ):
            load(root)

    def test_an_engine_for_another_frame_size_does_not_count(self, tmp_path):
        root = write_plain_bundle(tmp_path / "two", sizes=[HW, (48, 64)])
        add_plan(root)
        edit_manifest(root, lambda m: m["plans"].pop(0))
        with pytest.raises(PlanMismatchError, match="no TensorRT plan for 24x32"):
            load(root)

    def test_another_version_says_both_and_the_command(self, engine, root):
        with pytest.raises(
            PlanMismatchError,
            match=r"built by TensorRT 11\.4\.0, and 10\.13\.2 is installed.*backend=\"tensorrt\"\)`",
        ):
            load(root, version="10.13.2")

    def test_another_gpu_says_both_and_the_command(self, root):
        add_plan(root, target="sm86", gpu="NVIDIA Fake 3090")
        with pytest.raises(
            PlanMismatchError,
            match=r"are for sm86 NVIDIA Fake 3090, and this GPU is sm89 \(NVIDIA Fake 4090\)",
        ):
            load(root)

    def test_tensorrt_takes_no_engine_of_another_model_of_the_same_capability(self, root):
        add_plan(root, gpu="NVIDIA Fake 4060")
        with pytest.raises(PlanMismatchError, match="NVIDIA Fake 4060"):
            load(root)

    def test_rtx_is_named_in_the_command(self, root):
        add_plan(root, target="sm75", gpu="", backend="tensorrt-rtx")
        with pytest.raises(PlanMismatchError, match=r"backend=\"tensorrt-rtx\"\)`"):
            load(root, library="tensorrt-rtx")

    def test_an_old_driver(self, engine, root):
        driver = FakeDriver(Gpu(GPU.name, GPU.target, (12, 4)))
        with pytest.raises(
            UnavailableError, match=r"CUDA 13, and the one here supports CUDA 12\.4"
        ):
            load(root, driver)
        assert "deserialise" not in driver.names()

    @pytest.mark.parametrize(
        ("targets", "gpu", "chosen"),
        [
            (["sm80+", "sm89"], "sm89", "sm89"),
            (["sm89", "sm80+"], "sm120", "sm80+"),
            (["sm89", "sm80+"], "sm75", None),
            (["sm86"], "sm89", None),
        ],
    )
    def test_the_engine_for_this_gpu_is_preferred_to_the_portable_one(
        self, root, targets, gpu, chosen
    ):
        for target in targets:
            add_plan(root, target=target, gpu="", backend="tensorrt-rtx", version="1.7")
        bundle = open_bundle(root)
        found = (
            bundle,
            bundle.manifest.graphs[0],
            "tensorrt-rtx",
            "1.7",
            place_of(Gpu("G", gpu, (13, 0))),
        )
        if chosen is None:
            with pytest.raises(PlanMismatchError):
                choose_plan(*found)
        else:
            assert choose_plan(*found).target == chosen

    @pytest.mark.parametrize("target", ["sm90", "sm100", "sm70"])
    @pytest.mark.parametrize("held", ["sm80+", "sm89", None])
    def test_a_gpu_that_rtx_does_not_serve_is_told_the_way_out_and_not_to_rebuild(
        self, root, target, held
    ):
        if held:
            add_plan(root, target=held, gpu="", backend="tensorrt-rtx")
        with pytest.raises(UnavailableError, match="does not serve this GPU, NVIDIA H") as raised:
            load(root, FakeDriver(Gpu("NVIDIA H200", target, (13, 0))), library="tensorrt-rtx")
        assert not isinstance(raised.value, PlanMismatchError)
        assert '`backend="inductor"`' in str(raised.value)
        assert "rebuild" not in str(raised.value)

    def test_the_library_has_the_last_word_on_the_version(self, engine, root):
        """The manifest was forged to say another version."""
        edit_manifest(root, lambda m: m["plans"][0].update(version="11.5.0"))
        with pytest.raises(
            PlanMismatchError,
            match=r"TensorRT 11\.5\.0 does not load .*another version.*rebuild it with: `rebuild_plans",
        ):
            load(root, version="11.5.0")

    def test_the_library_has_the_last_word_on_the_gpu(self, engine, root):
        edit_manifest(root, lambda m: m["plans"][0].update(target="sm86"))
        with pytest.raises(PlanMismatchError, match=r"incompatible device.*built for another GPU"):
            load(root, FakeDriver(Gpu(GPU.name, "sm86", (13, 1))))


class TestAttacks:
    def test_flipped_bytes(self, engine, root):
        data = bytearray(engine.read_bytes())
        data[10] ^= 1
        engine.write_bytes(data)
        with pytest.raises(BundleError, match="SHA-256 differs"):
            load(root)

    def test_flipped_after_the_bundle_was_checked(self, engine, root):
        bundle = open_bundle(root)
        data = bytearray(engine.read_bytes())
        data[10] ^= 1
        engine.write_bytes(data)
        driver = FakeDriver()
        with pytest.raises(BundleError, match="SHA-256 differs"):
            TrtBackend(
                bundle,
                bundle.manifest.graphs[0],
                library="tensorrt",
                api=TrtApi("tensorrt", fake_tensorrt(VERSION, driver)),
                driver=driver,
            )
        assert "deserialise" not in driver.names()
        assert driver.live == {}

    def test_truncated_with_a_forged_hash(self, engine, root):
        engine.write_bytes(engine.read_bytes()[:-20])
        rehash(root, engine.relative_to(root).as_posix())
        driver = FakeDriver()
        with pytest.raises(PlanDamagedError, match=r"truncated.*damaged.*rebuild it with"):
            load(root, driver)
        assert driver.live == {}

    def test_swapped_with_that_of_another_bundle(self, engine, root, tmp_path):
        """Same task, size, version and GPU, and the manifest's hash was forged: only its name tells."""
        other = write_plain_bundle(tmp_path / "other")
        onnx = other / "model_24x32.onnx"
        onnx.write_bytes(onnx.read_bytes() + b"\x12\x00")  # another graph: a producer of no name
        rehash(other, onnx.name)
        shutil.copy(add_plan(other), engine)
        rehash(root, engine.relative_to(root).as_posix())
        driver = FakeDriver()
        with pytest.raises(PlanDamagedError, match="was built from another graph than model_24x32"):
            load(root, driver)
        assert driver.live == {}

    def test_tensors_that_the_manifest_does_not_list(self, engine, root):
        facts = json.loads(engine.read_text())
        facts["tensors"][1][3] = [1, 999, 999]
        engine.write_text(json.dumps(facts))
        rehash(root, engine.relative_to(root).as_posix())
        with pytest.raises(PlanDamagedError, match=r"999.*the manifest lists"):
            load(root)

    @pytest.mark.parametrize("what", ["", "plans", "manifest.json", "engine"])
    @pytest.mark.parametrize("bit", [0o002, 0o020])
    def test_what_others_can_write(self, engine, root, what, bit):
        path = engine if what == "engine" else root / what
        path.chmod(path.stat().st_mode | bit)
        driver = FakeDriver()
        with pytest.raises(BundleError, match=r"can be written by other users.*chmod go-w"):
            load(root, driver)
        assert "deserialise" not in driver.names()

    def test_what_belongs_to_another_user(self, engine, root, monkeypatch):
        if os.geteuid() == 0:
            os.chown(engine, 12345, 12345)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(BundleError, match="belongs to another user"):
            load(root)

    def test_a_link_out_of_the_bundle(self, engine, root, tmp_path):
        outside = tmp_path / "outside.plan"
        engine.rename(outside)
        engine.symlink_to(outside)
        with pytest.raises(BundleError, match="reached through a link"):
            load(root)

    def test_a_path_out_of_the_bundle(self, engine, root):
        edit_manifest(root, lambda m: m["plans"][0].update(file="../outside.plan"))
        with pytest.raises(BundleError, match="not listed"):
            load(root)

    def test_an_engine_the_manifest_does_not_hash(self, engine, root):
        name = engine.relative_to(root).as_posix()
        edit_manifest(root, lambda m: m["files"].pop(name))
        with pytest.raises(BundleError, match="not listed"):
            load(root)
