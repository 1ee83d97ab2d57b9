"""Every family and task from a checkpoint with random weights to a bundle, in fp32 and fp16, on every backend here.

Minutes; EVERY_FAMILY=1 runs it. docs/support.md tells what came out.
"""

import os

import pytest
from safetensors.torch import load_file, save_file

from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.runtime.checks.verify import verify_bundle
from tests.family_checkpoints.depthmaster import write_depthmaster
from tests.family_checkpoints.genpercept import write_genpercept
from tests.family_checkpoints.geowizard import write_geowizard
from tests.family_checkpoints.lotus import write_lotus
from tests.family_checkpoints.marigold_iid import write_iid
from tests.family_checkpoints.sd2 import LEAN
from tests.family_checkpoints.stablenormal import write_stablenormal
from tests.small_checkpoint import edit_weights, write_lcm

pytestmark = pytest.mark.skipif(
    "EVERY_FAMILY" not in os.environ, reason="minutes; EVERY_FAMILY=1 runs it"
)


def write_quiet_lcm(folder, **changes):
    write_lcm(folder, **changes)
    name = "decoder.conv_out.weight"
    edit_weights(folder, "vae", lambda tensors: tensors | {name: 0.1 * tensors[name]})
    return folder


def write_quiet_head(folder, **changes):
    """A map around 0.4: as drawn, 87 % of it are cut to 0, and features that are rounded once, between networks in
    fp32, put 2.4 % of the pixels outside. The rules of half precision are not what such weights judge.
    """
    write_genpercept(folder, head=True, **changes)
    file = folder / "dpt_head_identity" / "model.safetensors"
    weight, bias = "head.head.4.weight", "head.head.4.bias"
    tensors = load_file(file)
    quiet = {weight: 0.1 * tensors[weight], bias: 0.0 * tensors[bias]}
    save_file(tensors | quiet, file)
    return folder


# The networks have their real numbers of levels; random decoders are kept quiet, for where a random depth is near zero
# half precision is far from it in proportion.
QUIET = {"contrast": 0.15}
CASES = {
    "lcm depth": (write_quiet_lcm, {}, {}),
    "lcm normals": (write_lcm, {"task": "normals"}, {}),
    "marigold-iid appearance": (write_iid, {}, {}),
    "marigold-iid lighting": (write_iid, {"task": "lighting"}, {}),
    "geowizard": (write_geowizard, {"lively": False}, {"domain": "object"}),
    "geowizard-v2": (write_geowizard, {"lively": False, "version": 2}, {}),
    **{
        f"genpercept {task}": (write_genpercept, QUIET, {"family": "genpercept", "task": task})
        for task in ("depth", "normals", "segmentation", "matting")
    },
    "genpercept v1": (
        *(write_genpercept, QUIET | {"prompt": True}),
        {"family": "genpercept", "task": "depth"},
    ),
    "genpercept decoder": (
        *(write_genpercept, {"decoder": True}),
        {"family": "genpercept", "task": "normals"},
    ),
    "genpercept head": (
        *(write_quiet_head, {}),
        {"family": "genpercept", "task": "disparity"},
    ),
    **{
        f"lotus-{variant} {task}": (write_lotus, QUIET | {"variant": variant}, {"task": task})
        for variant in "dg"
        for task in ("depth", "disparity", "normals")
    },
    "depthmaster": (write_depthmaster, QUIET, {}),
    "depthmaster lean": (write_depthmaster, QUIET | LEAN, {}),
    "stablenormal-turbo": (write_stablenormal, {}, {"family": "stablenormal-turbo", "seed": 7}),
    "stablenormal-turbo-v1": (
        *(write_stablenormal, {"version": 1}),
        {"family": "stablenormal-turbo-v1"},
    ),
}
IN_EIGHT_BITS = ("genpercept head", "geowizard", "lotus-d depth", "stablenormal-turbo")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, precision) for name in CASES for precision in ("fp32", "fp16")),
        *((name, "int8") for name in IN_EIGHT_BITS),
    ],
)
def test_bundle_is_within_its_limits_on_every_backend(tmp_path, name, precision):
    write, how, named = CASES[name]
    folder = write(tmp_path / "checkpoint", **how)
    bundle = export_bundle(
        folder,
        tmp_path / "bundle",
        precision=precision,
        frame_sizes=[(72, 88)],
        resolution=0,
        engine="onnx",
        accept_accuracy=precision == "int8",  # of random weights it says nothing
        **named,
    )
    if precision == "int8":
        assert all(entry.parity["finite"] for entry in bundle.manifest.verification)
        return
    assert all(entry.passed for entry in bundle.manifest.verification)
    verified = verify_bundle(bundle)
    failures = {
        (verdict.backend, verdict.output): verdict.failures for verdict in verified.verdicts
    }
    print(name, precision, sorted(failures))
    assert {backend for backend, _ in failures} >= {"onnxruntime", "torch"}
    assert not any(failures.values()), failures
