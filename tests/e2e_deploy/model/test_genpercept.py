"""GenPercept beside its published composition: diffusers' UNet, VAE and DDIM scheduler, transformers' text encoder."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

import e2e_deploy as e2e
from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.export.subject import plan_subjects
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.networks.dpt_head import DPTHead
from e2e_deploy.verbs.inspect import inspect
from tests.family_checkpoints.genpercept import (
    BETAS_OF_ONE,
    FUSION,
    TWO_LEVELS,
    write_genpercept,
)
from tests.family_checkpoints.sd2 import UNET
from tests.peers import our_results
from tests.small_checkpoint import edit_json, edit_weights

HEAD, PROMPT = "dpt_head_identity", "empty_text_embed.npy"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("genpercept")
    return {
        "v2": write_genpercept(root / "v2", scheduler=BETAS_OF_ONE),
        "v1": write_genpercept(root / "v1", prompt=True),
        "decoder": write_genpercept(root / "decoder", decoder=True),
        "head": write_genpercept(root / "head", head=True),
    }


def context_of(folder):
    if (folder / PROMPT).exists():
        return torch.from_numpy(np.load(folder / PROMPT)).double()[None]
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")("", return_tensors="pt").input_ids
    return CLIPTextModel.from_pretrained(folder / "text_encoder").double()(tokens)[0]


def published(folder, frame, task, *, resolution=0):
    """[H, W] or [H, W, 3] as genpercept_pipeline.py makes it, float64, without rounding the resized frame to bytes."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").double()
    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    if (folder / "vae_decoder").exists():
        for name in ("decoder", "post_quant_conv"):
            weights = load_file(folder / f"vae_{name}" / "model.safetensors")
            getattr(vae, name).load_state_dict(weights)
        vae = vae.double()
    rgb = torch.from_numpy(frame).permute(2, 0, 1)[None].double()
    size = rgb.shape[2:]
    if resolution:
        share = min(resolution / size[0], resolution / size[1])
        smaller = [int(side * share) for side in size]
        rgb = F.interpolate(rgb, smaller, mode="bilinear", antialias=True)
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    scheduler = DDIMScheduler.from_config(scheduler.config, **BETAS_OF_ONE)
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(rgb / 255.0 * 2.0 - 1.0))
        latent = moments.chunk(2, dim=1)[0] * 0.18215
        features = []
        for block in unet.up_blocks:
            block.register_forward_hook(lambda _m, _i, out: features.insert(0, out))
        v = unet(latent, timestep, context_of(folder)).sample
        if (folder / HEAD).exists():
            head = DPTHead(UNET["block_out_channels"], FUSION)
            head.load_state_dict(load_file(folder / HEAD / "model.safetensors"))
            image = head.double()(features)
            image = (image - image.min()) / (image.max() - image.min())
        else:
            x0 = scheduler.step(v, timestep, latent).pred_original_sample
            image = vae.decoder(vae.post_quant_conv(x0 / 0.18215))
            if task in ("depth", "disparity", "matting"):
                image = image.mean(dim=1, keepdim=True)
            image = (image.clip(-1.0, 1.0) + 1.0) / 2.0
    image = F.interpolate(image, size, mode="bilinear", antialias=True).clip(0, 1)
    return image[0, 0] if image.shape[1] == 1 else image[0].permute(1, 2, 0)


@pytest.mark.parametrize(
    ("name", "task", "size", "resolution"),
    [
        ("v2", "segmentation", (64, 64), 0),
        ("v1", "matting", (75, 135), 64),
        ("decoder", "disparity", (75, 100), 0),  # the VAE drops what is over its stride
        ("head", "disparity", (144, 176), 88),  # levels of odd sides: a result of 96x96
    ],
)
def test_it_is_the_published_one(folders, rng, name, task, size, resolution):
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = published(folders[name], frame, task, resolution=resolution)
    settings = {"stretch": "frame"} if name == "head" else {}
    (found,) = our_results(
        folders[name],
        frame,
        resolution=resolution,
        family="genpercept",
        task=task,
        settings=settings,
    )
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_normals_are_vectors_with_x_to_the_right(folders, rng):
    frame = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    vectors = published(folders["v2"], frame, "normals") * 2 - 1
    (found,) = our_results(folders["v2"], frame, task="normals")
    expected = vectors / vectors.norm(dim=2, keepdim=True)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_head_gives_its_trained_range_unless_it_is_asked_to_stretch(folders):
    checkpoint = open_checkpoint(folders["head"], task="disparity")
    assert checkpoint.settings == {"stretch": "none"}
    model = load_model(checkpoint)
    image = torch.tensor([[[[-3.0, -1.0, 0.0, 1.0, 2.0]]]])
    assert model.read(image).flatten().tolist() == [0, 0, 0.5, 1, 1]
    model.stretch = "frame"
    two = torch.cat([image, torch.full_like(image, 0.7)])
    assert model.read(two)[0].flatten().tolist() == pytest.approx([0, 0.4, 0.6, 0.8, 1])
    assert model.read(two)[1].abs().max() == 0  # a flat frame


@pytest.mark.parametrize(
    ("name", "task", "size"),
    [
        ("v1", "matting", (64, 64)),
        ("head", "depth", (72, 88)),
    ],
)
def test_specialised_it_is_the_same(folders, name, task, size):
    model = load_model(open_checkpoint(folders[name], family="genpercept", task=task)).double()
    rgb = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    with torch.no_grad():
        expected = model(rgb)
        special, _ = specialise(model, sizes_hw=[size])
        found = special(rgb)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def refused(folder, error=CheckpointError, **named):
    with pytest.raises(error) as caught:
        load_model(open_checkpoint(folder, **{"task": "disparity"} | named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_of_a_head_without_one(folders):
    said = refused(folders["v1"], UsageError, settings={"stretch": "frame"})
    assert said == "`stretch` has no effect on GenPercept checkpoints without a DPT head"
    said = refused(folders["head"], UsageError, settings={"stretch": "video"})
    assert said == "`stretch` is 'video'; expected one of none, frame"


def test_a_head_keeps_its_unets_last_layers_out(tmp_path, folders):
    """The published UNet lacks them; one that has them is the same, as in the published pipeline."""
    folder = shutil.copytree(folders["head"], tmp_path / "c")
    rgb = torch.zeros(1, 3, 64, 64)
    expected = load_model(open_checkpoint(folder, task="depth"))(rgb)
    ends = ("conv_out.", "conv_norm_out.")
    edit_weights(folder, "unet", lambda w: {k: v for k, v in w.items() if not k.startswith(ends)})
    torch.testing.assert_close(load_model(open_checkpoint(folder, task="depth"))(rgb), expected)
    shutil.rmtree(folder / HEAD)
    assert "lacks 4 weights" in refused(folder, family="genpercept")


def edit_head(folder, change):
    from safetensors.torch import save_file

    file = folder / HEAD / "model.safetensors"
    save_file(change(load_file(file)), file)


def test_damaged_heads_are_named(tmp_path, folders):
    folder = shutil.copytree(folders["head"], tmp_path / "c")
    edit_json(folder / HEAD / "config.json", neck_hidden_sizes=[8, 16, 32, 40])
    assert "asks for features of [8, 16, 32, 40] channels; the unet gives" in refused(folder)
    edit_json(folder / HEAD / "config.json", neck_hidden_sizes=None, fusion_hidden_size=-1)
    assert "fusion_hidden_size" in refused(folder)
    (folder / HEAD / "config.json").unlink()  # published heads have none, and 256 channels
    assert "config.json asks for [256, 8, 3, 3]" in refused(folder)
    edit_head(folder, lambda w: {k: v for k, v in w.items() if "projection" not in k})
    assert "lacks 10 weights" in refused(folder)
    (folder / HEAD / "model.safetensors").rename(folder / HEAD / "model.bin")
    assert "is a pickle" in refused(folder)


def test_a_damaged_decoder_is_named(tmp_path, folders):
    folder = shutil.copytree(folders["decoder"], tmp_path / "c")
    file = folder / "vae_post_quant_conv" / "model.safetensors"
    shutil.copy(folder / "vae_decoder" / "model.safetensors", file)
    assert f"{file} lacks 2 weights" in refused(folder)
    file.unlink()
    assert "vae_post_quant_conv/model.safetensors is missing" in refused(folder)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 8), np.float32), "gives 8 numbers a token, the unet expects 16"),
        (np.zeros((78, 16), np.float32), r"holds float32 [78, 16]; expected"),
        (np.zeros((2, 77, 16), np.float32), r"holds float32 [2, 77, 16]"),
        (np.zeros((77, 16), np.int32), "holds int32"),
        (np.full((77, 16), np.nan), "holds NaN or infinite"),
        (np.zeros(16), "holds float64 [16]"),
        (np.array([[None]]), "is no NumPy file"),
        (b"\x93NUMPY\x01\x00", "is no NumPy file"),
        (b"\x93NUMPY\x01\x00\x05\x00((((\n", "is no NumPy file"),
        (b"", "is no NumPy file"),
    ],
)
def test_odd_stored_prompts_are_one_sentence(tmp_path, folders, array, said):
    folder = shutil.copytree(folders["v1"], tmp_path / "c")
    if isinstance(array, bytes):
        (folder / PROMPT).write_bytes(array)
    else:
        np.save(folder / PROMPT, array, allow_pickle=True)
    assert said in refused(folder)


def test_the_stored_prompt_decides_the_checkpoints_hash(tmp_path, folders):
    folder = shutil.copytree(folders["v1"], tmp_path / "c")
    before = open_checkpoint(folder, task="depth").sha256()
    np.save(folder / PROMPT, np.load(folder / PROMPT) * 2)
    assert open_checkpoint(folder, task="depth").sha256() != before


def test_sizes_of_graphs_with_a_head(folders):
    model = load_model(open_checkpoint(folders["head"], task="depth"))
    (core,) = plan_subjects([(72, 88)], model=model, resolution=0, kind="core")
    assert core.entry.processing_size == [128, 128]  # padded until its result has its size
    with pytest.raises(UsageError, match="with a DPT head sides are padded to multiples of 64"):
        plan_subjects([(75, 88)], model=model, resolution=0, pad=8)
    with pytest.raises(UsageError, match="a core graph's result .* multiple of 64 .* `pad` is 8"):
        plan_subjects([(72, 88)], model=model, resolution=0, pad=8, kind="core")


@pytest.mark.parametrize("has", ["diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_unet_alone_says_what_it_is_put_into(tmp_path, has):
    (tmp_path / has).parent.mkdir(exist_ok=True)
    (tmp_path / has).write_text("{}")
    for read in (open_checkpoint, inspect):
        with pytest.raises(CheckpointError, match="holds a UNet and no model_index.json: copy"):
            read(tmp_path)


def test_a_stretched_graph_says_that_it_flickers_and_runs_in_onnxruntime(tmp_path):
    bundle = e2e.export_bundle(
        write_genpercept(tmp_path / "c", head=True, unet=TWO_LEVELS),
        tmp_path / "bundle",
        task="disparity",
        stretch="frame",
        frame_sizes=[(64, 64)],
        resolution=0,
        precision="fp16",
        engine="onnx",
    )
    manifest = bundle.manifest
    assert (manifest.outputs, manifest.settings) == (["disparity"], {"stretch": "frame"})
    assert [note.rpartition(": ")[2] for note in manifest.notes] == [
        "a video flickers, and values of two frames cannot be compared"
    ]
    with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
        result = engine(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    assert (result.min(), result.max()) == (0, 1)
    assert result.shape == (64, 64)


def test_channels_that_genpercept_does_not_have(tmp_path, folders):
    folder = shutil.copytree(folders["v1"], tmp_path / "c")
    edit_json(folder / "unet" / "config.json", in_channels=8)
    assert "expected 4 (rgb latent) in, 4 out" in refused(folder)
