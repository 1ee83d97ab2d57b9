from types import SimpleNamespace

import pytest

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.export.engines.tensorrt import BuildOptions, Network
from e2e_deploy.nvidia.trt_api import PORTABLE, TrtApi
from e2e_deploy.nvidia.trt_messages import BuildError
from tests.export.builds import PLAN, build, plan_of
from tests.small_graphs import F16, F32, F64, write_attention, write_conv, write_uint8_transpose

SIX = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


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
            UnavailableError, match=r"cannot build the plan: .*cudaError 35.*needs a GPU"
        ):
            plan_of(api, write_conv(tmp_path / "m.onnx"), target="sm89")
