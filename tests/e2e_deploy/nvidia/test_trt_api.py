import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from e2e_deploy.errors import (
    PlanDamagedError,
    PlanMismatchError,
    UnavailableError,
)
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.nvidia.trt_api import PORTABLE, TrtApi, find_api
from e2e_deploy.nvidia.trt_layers import summarise_layers
from e2e_deploy.nvidia.trt_messages import (
    BUILD_REMEDIES,
    BuildError,
    Remedy,
    explain,
    explain_load,
    explain_parser,
    tidy,
)
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan
from tests.fake_cuda import fake_tensorrt

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/"
    "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)


@pytest.fixture(autouse=True)
def fresh():
    find_api.cache_clear()
    yield
    find_api.cache_clear()


class TestLibrary:
    def test_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[tensorrt\]'"):
            find_api("tensorrt")

    @pytest.mark.parametrize("error", [OSError, RuntimeError, ImportError])
    def test_does_not_load(self, monkeypatch, error):
        def broken(*_):
            raise error("libnvinfer.so.11: cannot open shared object file")

        monkeypatch.setattr("importlib.import_module", broken)
        with pytest.raises(
            UnavailableError, match=r"does not load \(libnvinfer\.so\.11: cannot open.*pip install"
        ):
            find_api("tensorrt")

    def test_too_old_names_what_is_missing(self, monkeypatch):
        module = fake_tensorrt("8.6.1", missing=["ParserError"])
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        with pytest.raises(
            UnavailableError,
            match=r"TensorRT 8\.6\.1 has no ParserError\.node_name.*tensorrt 10\.12 or later",
        ):
            find_api("tensorrt")

    def test_an_empty_folder_of_that_name_is_no_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
        with pytest.raises(UnavailableError, match="of unknown version has no Builder"):
            find_api("tensorrt")

    @pytest.mark.parametrize("kind", ["Builder", "Runtime"])
    def test_no_driver_is_one_sentence(self, kind):
        api = TrtApi("tensorrt", fake_tensorrt(starts=False))
        with pytest.raises(UnavailableError, match="needs an NVIDIA GPU with a driver") as caught:
            api.create(kind)
        assert caught.value.exit_code == 4
        assert "pybind" not in str(caught.value)

    def test_another_reason_is_kept(self):
        api = TrtApi("tensorrt", fake_tensorrt())

        def builder(logger):
            logger.log(1, "no room for the CUDA context")
            return None

        api.module.Builder = builder
        with pytest.raises(UnavailableError, match="does not start: no room for the CUDA context"):
            api.create("Builder")

    def test_tensorrt_has_no_targets(self):
        api = TrtApi("tensorrt", fake_tensorrt())
        assert not api.builds_without_gpu
        assert api.targets == ()

    def test_messages_reach_the_log_whole(self, caplog):
        api = TrtApi("tensorrt", fake_tensorrt())
        with caplog.at_level(logging.INFO, logger="e2e_deploy.tensorrt"):
            api.logger.log(2, "a warning of NVIDIA's")
            api.logger.log(1, "an error of NVIDIA's")
        assert [(r.levelname, r.message) for r in caplog.records] == [
            ("WARNING", "a warning of NVIDIA's"),
            ("ERROR", "an error of NVIDIA's"),
        ]
        assert api.take_errors() == ["an error of NVIDIA's"]
        assert api.take_errors() == []

    def test_errors_are_not_printed_besides(self, capfd):
        TrtApi("tensorrt", fake_tensorrt()).logger.log(1, "an error of NVIDIA's")
        assert capfd.readouterr() == ("", "")


@pytest.mark.rtx
class TestRtx:
    def test_targets(self):
        api = find_api("tensorrt-rtx")
        assert api.builds_without_gpu
        assert api.targets[0] == PORTABLE
        assert {"sm75", "sm80", "sm86", "sm89", "sm120", "sm121"} <= set(api.targets)
        assert api.title == f"TensorRT-RTX {api.module.__version__}"
        assert api.cuda_major in (12, 13)

    @pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
    def test_loading_needs_a_driver(self, tmp_path):
        from e2e_deploy.export.engines.tensorrt import BuildOptions, Network
        from tests.small_graphs import write_conv

        api = find_api("tensorrt-rtx")
        with Network(api, write_conv(tmp_path / "m.onnx")) as network:
            plan, _ = network.build(BuildOptions())
        with pytest.raises(
            UnavailableError,
            match=r"the NVIDIA driver is missing or too old: install a newer one$",
        ):
            LoadedPlan(api, bytes(plan), "m.plan", "MAKE")

    @pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
    @pytest.mark.parametrize("data", [b"", b"\0" * 10, b"no plan at all" * 100])
    def test_what_is_no_engine_is_refused(self, data):
        with pytest.raises(
            (PlanMismatchError, PlanDamagedError),
            match=r"does not load m\.plan.*rebuild it with: MAKE",
        ):
            LoadedPlan(find_api("tensorrt-rtx"), data, "m.plan", "MAKE")


class TestMessages:
    def test_tidy_keeps_the_cause_and_drops_what_follows_from_it(self):
        cause = (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (vae.conv/Conv: `input` type is Half but "
            "`kernel` is of type Float. In validateTypes at /_src/optimizer/common/nodes/convolutionNode.cpp:88)"
        )
        assert tidy([cause, NO_DRIVER, cause]) == (
            "Error Code 4: API Usage Error (vae.conv/Conv: `input` type is Half but `kernel` is of type Float)"
        )
        assert "cudaError 35" in tidy([NO_DRIVER])
        assert tidy([]) == ""
        assert len(tidy(["x" * 2000])) <= 500

    def test_unsupported_operator_is_a_sentence(self):
        error = explain_parser(
            "TensorRT 11",
            code="UNSUPPORTED_NODE",
            desc="false",
            node="vae/Unique",
            operator="Unique",
        )
        assert str(error) == (
            "TensorRT 11 does not support the operator Unique at node 'vae/Unique'; "
            'replace it in the model, or export with `engine="onnx"`'
        )

    @pytest.mark.parametrize(
        ("said", "remedy", "kind"),
        [
            ("std::bad_alloc", "ran out of memory", BuildError),
            ("Could not find any implementation for node X", "allow more workspace", BuildError),
            (
                "CHECK(composite_op->is_decomposable()) failed",
                "no fused attention kernel",
                BuildError,
            ),
            ("(cudaError 35: ...)", "needs a GPU", UnavailableError),
            ("something new", "DEFAULT", BuildError),
        ],
    )
    def test_builder(self, said, remedy, kind):
        error = explain("W", [said], BUILD_REMEDIES, default=Remedy("", "DEFAULT"))
        assert type(error) is kind
        assert said in str(error)
        assert remedy in str(error)

    @pytest.mark.parametrize(
        ("said", "remedy", "kind"),
        [
            (
                "Serialization assertion header.magicTag == kEXPECTED failed",
                "another version",
                PlanMismatchError,
            ),
            ("expecting compute capability 6.1 got 7.5", "another GPU", PlanMismatchError),
            ("UNSUPPORTED_CC", "does not serve this GPU", UnavailableError),
            ("OLD_CUDA_DRIVER", "driver is missing or too old", UnavailableError),
            ("MALFORMED_ENGINE", "damaged", PlanDamagedError),
        ],
    )
    def test_loader(self, said, remedy, kind):
        error = explain_load("W", [said], "MAKE")
        assert type(error) is kind
        assert remedy in str(error)
        rebuilding_helps = kind in (PlanMismatchError, PlanDamagedError)
        assert str(error).endswith("rebuild it with: MAKE") == rebuilding_helps

    def test_a_cause_decides_before_the_missing_driver_that_follows_it(self):
        assert "another version" in str(explain_load("W", ["magicTag failed", NO_DRIVER], "MAKE"))


class TestValidity:
    """TensorRT-RTX says before loading whether a plan fits."""

    @pytest.mark.parametrize(
        ("bits", "kind"),
        [(1, PlanMismatchError), (2, UnavailableError), (4, PlanDamagedError)],
    )
    def test_an_invalid_header_with_a_cause_is_not_deserialised(self, bits, kind):
        module = fake_tensorrt()
        causes = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "MALFORMED_ENGINE": 4}
        module.EngineInvalidityDiagnostics = SimpleNamespace(__members__=causes)
        seen = []

        def validity(_, header):
            seen.append(len(header))
            return SimpleNamespace(name="INVALID"), bits

        module.Runtime.engine_header_size = 64
        module.Runtime.get_engine_validity = validity
        module.Runtime.deserialize_cuda_engine = None  # calling it would fail
        with pytest.raises(kind, match=next(n for n, b in causes.items() if b == bits)) as raised:
            LoadedPlan(TrtApi("tensorrt", module), b"x" * 1000, "m.plan", "MAKE")
        assert seen == [64]
        assert type(raised.value) is kind  # a mismatch is unavailable too, and says to rebuild


class TestLayers:
    def test_both_majors_are_counted(self):
        old = '{"Layers": [{"Name": "a", "LayerType": "conv", "Outputs": [{"Format/Datatype": "Row major FP16"}]}, '
        old += '{"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "FP32"}]}]}'
        new = '{"Layers": [{"Name": "a", "LayerType": "conv", "Outputs": [{"Format": "Linear", "DataType": "Half"}]}, '
        new += '{"Name": "b", "LayerType": "Reformat", "Outputs": [{"Format": "Linear", "DataType": "Float"}]}]}'
        wanted = {"layers": 2, "fp16": 1, "fp32": 1, "reformat": 1}
        assert summarise_layers(old) == wanted
        assert summarise_layers(new) == wanted

    def test_names_alone_and_nonsense(self):
        assert summarise_layers('{"Layers": ["a", "b"]}') == {"layers": 2, "other": 2}
        assert summarise_layers("no JSON") == {}
        assert summarise_layers("[]") == {}

    def test_bf16_is_not_fp16(self):
        text = '{"Layers": [{"Outputs": [{"DataType": "BFloat16"}]}, {"Outputs": [{"DataType": "BF16"}]}]}'
        assert summarise_layers(text) == {"layers": 2, "bf16": 2, "reformat": 0}
