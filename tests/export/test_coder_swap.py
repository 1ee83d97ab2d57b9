"""Bundles whose VAE was exchanged: verified with it, and beside the checkpoint's own."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import e2e_deploy as e2e
from e2e_deploy.cli.verbs import export, inspect
from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.coder_cost import judge_latents, measure_without
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.subject import plan_subjects
from e2e_deploy.metrics import aligned_abs_rel
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.coders.swap import swap_coder
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from tests.plain_bundle import edit_manifest
from tests.small_checkpoint import edit_json, tiny_coder

HW = (32, 48)


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coder") / "vae"
    tiny_coder(1, out_channels=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(small, coder, tmp_path_factory):
    """The bundle with the small decoder, and what the command line said."""
    out = tmp_path_factory.mktemp("turbo") / "bundle"
    options = ["--frame-size", f"{HW[0]}x{HW[1]}", "--resolution", "0", "--engine", "onnx"]
    vae = ["--vae", str(coder), "--vae-part", "decoder"]
    done = CliRunner().invoke(
        export.command, [str(small), "--out", str(out), *options, *vae], catch_exceptions=False
    )
    return out, done.stderr


def test_parity_and_cost_are_both_told(exported, small, coder):
    root, said = exported
    bundle = e2e.open_bundle(root)
    manifest = bundle.manifest
    assert manifest.verification[0].parity["relative"] < 1e-4
    assert manifest.checkpoint.sha256 == open_checkpoint(small).sha256()
    assert (manifest.vae.id, manifest.vae.part) == (str(coder), "decoder")
    (cost,) = manifest.vae.costs
    frames, with_it = bundle.reference(bundle.manifest.graphs[0])
    own = load_model(open_checkpoint(small))
    with torch.inference_mode():
        without = FrameModel(own, own.plan(HW, 0), ["depth"])(torch.from_numpy(frames)).numpy()
    expected = max(
        aligned_abs_rel(now, before) for now, before in zip(with_it["depth"], without, strict=True)
    )
    assert expected > 0.01  # the two decoders have nothing to do with each other
    assert cost.parity["abs_rel"] == pytest.approx(expected, rel=1e-6)
    assert f"cost of {coder} 32x48: depth, AbsRel {expected:.3g} from what" in said
    assert f"VAE's decoder from {coder}" in said


def test_pytorch_is_asked_with_the_same_vae(exported, coder, tmp_path):
    root, _ = exported
    (verdict,) = e2e.verify_bundle(root, "torch", "cpu").verdicts
    assert verdict.parity.relative < 1e-6
    shown = CliRunner().invoke(inspect.command, [str(root)]).stdout
    assert "part: decoder" in shown
    assert "abs_rel: " in shown


def test_a_vae_that_changed_or_went_is_said(exported, coder, tmp_path):
    root, _ = exported
    config = coder / "config.json"
    before = config.read_bytes()
    try:
        edit_json(config, latent_magnitude=4)
        with pytest.raises(CheckpointError, match="is not the VAE this bundle was exported with"):
            e2e.verify_bundle(root, "torch", "cpu")
        coder.rename(tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match=f"names the VAE {coder}, which is not on this"):
            e2e.verify_bundle(root, "torch", "cpu")
        # Among others, what to do is told, and not what would not help.
        (left_out,) = (
            each.reason for each in e2e.verify_bundle(root).not_compared if each.backend == "torch"
        )
        assert "put it there, or export again with the `vae` at hand" in left_out
        assert "`checkpoint`" not in left_out
    finally:
        if not coder.exists():
            (tmp_path / "elsewhere").rename(coder)
        config.write_bytes(before)


def test_the_name_of_another_machine_is_not_asked_for(exported, tmp_path):
    root = shutil.copytree(exported[0], tmp_path / "bundle")
    edit_manifest(root, lambda manifest: manifest["vae"].update(id="//host/share/vae"))
    with pytest.raises(CheckpointError, match="names the VAE //host/share/vae, which is not on"):
        e2e.verify_bundle(root, "torch", "cpu")


@pytest.mark.parametrize(
    "named", ["runs/taesd", "bundled:e2e-tiny-depth/x", "", f"owner/v@{'0' * 40}"]
)
def test_a_vae_that_is_not_here_is_one_sentence(exported, tmp_path, named):
    root = shutil.copytree(exported[0], tmp_path / "bundle")
    edit_manifest(root, lambda manifest: manifest["vae"].update(id=named))
    with pytest.raises(
        CheckpointError, match=f"names the VAE {named}, which is not on this machine"
    ):
        e2e.verify_bundle(root, "torch", "cpu")


def test_a_half_of_nothing(small, tmp_path):
    with pytest.raises(UsageError, match="`vae_part` is a half of what `vae` names"):
        export_bundle(small, tmp_path / "b", vae_part="encoder")


def encoders(small, tmp_path, factor, own=False):
    """The small checkpoint with an encoder whose latents are ``factor`` times as large as its own."""
    checkpoint = open_checkpoint(small)
    model = load_model(checkpoint)
    subjects = plan_subjects([HW], model=model, resolution=0)
    without = measure_without(model, subjects, 1)
    folder = tmp_path / "encoder"
    tiny = tiny_coder(2)
    tiny.save_pretrained(folder)
    swapped = swap_coder(checkpoint, small if own else folder, "encoder")
    if not own:
        steps = FrameModel(torch.nn.Identity(), subjects[0].plan, ["depth"])
        rgb = steps.to_network(torch.from_numpy(e2e_frames()))
        with torch.inference_mode():
            size = tiny.encode(rgb).latents.norm() / without.latent_N4hw.norm()
        edit_json(folder / "config.json", scaling_factor=factor / float(size))
        swapped = swap_coder(checkpoint, folder, "encoder")
    return judge_latents(swapped.coder, load_model(swapped), subjects[0], without)


def e2e_frames():
    from e2e_deploy.assets.pictures import reference_frames

    return np.ascontiguousarray(reference_frames(HW, 1))


@pytest.mark.parametrize("factor", [0.18, 5.5])
def test_latents_of_another_size_are_refused(small, tmp_path, factor):
    with pytest.raises(CheckpointError, match=f"are {factor:g} times as large") as caught:
        encoders(small, tmp_path, factor)
    assert "states another scaling_factor" in str(caught.value)


def test_latents_that_are_not_related_are_told(small, tmp_path):
    (told,) = encoders(small, tmp_path, 1.0)
    assert "it was made for another latent space" in told
    (told,) = encoders(small, tmp_path, 1.0, own=True)
    assert "differ by 0.0% from those" in told
    assert "another latent space" not in told
