"""GeoWizard beside its published pipelines put together from stock modules, and what its checkpoints may look like."""

import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.networks.geowizard import class_labels
from tests.family_checkpoints.geowizard import write_geowizard
from tests.small_checkpoint import edit_json, edit_weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("geowizard")
    return {version: write_geowizard(root / f"v{version}", version=version) for version in (1, 2)}


def copied(folder, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(folder, tmp_path / "checkpoint"))


class PublishedAttention:
    """What the published processor does to [depth, normals]: keys and values of both halves for each, no kernels."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        key = torch.cat([torch.cat(key.chunk(2), dim=1)] * 2)
        value = torch.cat([torch.cat(value.chunk(2), dim=1)] * 2)
        query, key, value = (attn.head_to_batch_dim(x) for x in (query, key, value))
        weights = (query @ key.transpose(1, 2) * attn.scale).softmax(dim=-1)
        return attn.to_out[0](attn.batch_to_head_dim(weights @ value))


def published(folder, rgb_13HW, domain, version):
    """Depth [H, W] and normals [H, W, 3], x left, y up, z toward the viewer, in one trailing step without noise."""
    import diffusers
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            folder, subfolder={1: "unet", 2: "unet_v2"}[version]
        )
        vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
        scheduler = diffusers.DDIMScheduler.from_pretrained(
            folder, subfolder="scheduler", timestep_spacing="trailing"
        )
    unet, vae = unet.double(), vae.double()
    for block in unet.modules():
        if type(block).__name__ == "BasicTransformerBlock":
            block.attn1.set_processor(PublishedAttention())
    geometry = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    labels = torch.cat([geometry.sin(), geometry.cos()], dim=-1)
    if version == 1:
        one_hot = torch.eye(3)[["indoor", "outdoor", "object"].index(domain)].repeat(2, 1)
        labels = torch.cat([labels, one_hot.sin(), one_hot.cos()], dim=-1)
        encoder = transformers.CLIPVisionModelWithProjection.from_pretrained(
            folder, subfolder="image_encoder"
        )
        processor = transformers.CLIPImageProcessor.from_pretrained(
            folder, subfolder="feature_extractor"
        )
        small = F.interpolate((rgb_13HW + 1) / 2, (224, 224), mode="bicubic", antialias=True)
        mean, std = (
            torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std)
        )
        context = encoder.double()((small - mean) / std).image_embeds.unsqueeze(1)
    else:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        encoder = transformers.CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
        context = encoder.double()(tokenizer(f"{domain} geometry", return_tensors="pt").input_ids)[
            0
        ]
    rgb_latent = (vae.encode(rgb_13HW).latent_dist.mean * 0.18215).repeat(2, 1, 1, 1)
    geo_latent = torch.zeros_like(rgb_latent)
    scheduler.set_timesteps(1)
    (t,) = scheduler.timesteps
    network_in = torch.cat([rgb_latent, geo_latent], dim=1)
    v = unet(network_in, t.repeat(2), context.repeat(2, 1, 1), class_labels=labels).sample
    x0 = scheduler.step(v, t, geo_latent).pred_original_sample
    images = torch.cat([vae.decode(each[None] / 0.18215).sample for each in x0])
    depth = (images[0].mean(dim=0).clip(-1, 1) + 1) / 2
    normals = -images[1] / images[1].norm(dim=0, keepdim=True)  # theirs add 1e-5 to the length
    return depth.numpy(), normals.permute(1, 2, 0).numpy()


@torch.no_grad()
@pytest.mark.parametrize(("version", "domain"), [(1, "indoor"), (1, "object"), (2, "outdoor")])
def test_the_result_is_the_published_pipelines(folders, version, domain):
    model = load_model(open_checkpoint(folders[version], settings={"domain": domain})).double()
    # in float64, because a few pixels' vectors are so short that rounding turns them
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    got = model(rgb)
    assert got.shape == (2, 4, 64, 64)
    for index, result in enumerate(got.numpy()):
        depth, normals = published(folders[version], rgb[index : index + 1], domain, version)
        assert depth.std() > 0.02
        np.testing.assert_allclose(result[0], depth, atol=1e-5)
        # theirs have x to the left
        np.testing.assert_allclose(result[1:].transpose(1, 2, 0), normals * (-1, 1, 1), atol=1e-5)


@torch.no_grad()
def test_domains_and_halves_tell_the_network_apart(folders):
    rgb = torch.rand(1, 3, 64, 64) * 2 - 1
    results = [
        load_model(open_checkpoint(folders[1], settings={"domain": domain}))(rgb)
        for domain in ("indoor", "outdoor")
    ]
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_class_labels_are_sines_and_cosines_of_one_hot_vectors():
    one, zero = math.sin(1), math.cos(1)  # of a 1; of a 0 they are 0 and 1
    depth, normals = class_labels("outdoor")
    domain = [0, one, 0, 1, zero, 1]
    torch.testing.assert_close(depth, torch.tensor([0, one, 1, zero, *domain]))
    torch.testing.assert_close(normals, torch.tensor([one, 0, zero, 1, *domain]))
    torch.testing.assert_close(class_labels(None), torch.stack([depth, normals])[:, :4])


def test_what_it_is_taken_for(folders):
    for version, name in ((1, "geowizard"), (2, "geowizard-v2")):
        opened = open_checkpoint(folders[version])
        assert opened.identity.family.name == name
        assert opened.identity.outputs == ("depth", "normals")
        assert opened.settings == {"domain": "indoor"}
        assert "class embedding" in opened.describe()
    with pytest.raises(UsageError, match=r"do not do depth; they do geometry"):
        open_checkpoint(folders[1], task="depth")
    with pytest.raises(UsageError, match=r"`domain` is 'attic'; expected one of indoor, outdoor"):
        open_checkpoint(folders[1], settings={"domain": "attic"})
    with pytest.raises(
        CheckpointError, match=r"as geowizard has, but the family named is marigold"
    ):
        open_checkpoint(folders[1], family="marigold")


def test_both_versions_in_one_folder_must_be_named(tmp_path, folders):
    folder = copied(folders[1], tmp_path)
    for name in ("unet_v2", "text_encoder", "tokenizer"):
        (folder / name).symlink_to(folders[2] / name)
    with pytest.raises(CheckpointError, match=r"holds all of geowizard and of geowizard-v2; name"):
        open_checkpoint(folder)
    first, second = (open_checkpoint(folder, family=f) for f in ("geowizard", "geowizard-v2"))
    assert first.folder("unet").name == "unet"
    assert second.folder("unet").name == "unet_v2"
    assert first.sha256() != second.sha256()


def test_v2_alone_says_what_belongs_beside_it(tmp_path, folders):
    folder = copied(folders[1], tmp_path)
    (folder / "unet_v2").symlink_to(folders[2] / "unet_v2")
    assert open_checkpoint(folder).identity.family.name == "geowizard"
    with pytest.raises(
        CheckpointError,
        match=r"has no text_encoder: GeoWizard v2 is published .*stable-diffusion-2",
    ):
        open_checkpoint(folder, family="geowizard-v2")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("feature_extractor/preprocessor_config.json", {"crop_size": 336}, r"crop_size of 336; the image enc.* 224"),
        ("feature_extractor/preprocessor_config.json", {"image_std": [0.2, 0.2]}, r"image_std .* red, green and blue"),
        ("image_encoder/config.json", {"hidden_size": 64}, r"image_encoder/model.safetensors"),
        ("image_encoder/config.json", {"hidden_act": "nothing"}, r"describes no CLIPVisionModelWithProjection"),
        ("unet/config.json", {"cross_attention_dim": 40}, r"unet/diffusion_pytorch_model.safetensors"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_a_sentence(tmp_path, folders, file, changes, message):
    folder = copied(folders[1], tmp_path)
    edit_json(folder / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(open_checkpoint(folder))


def test_a_missing_file_is_a_sentence(tmp_path, folders):
    folder = copied(folders[1], tmp_path)
    edit_weights(folder, "image_encoder", lambda t: {k: v for k, v in t.items() if "proj" not in k})
    with pytest.raises(CheckpointError, match=r"lacks \d+ weights its config.json asks for"):
        load_model(open_checkpoint(folder))
    (folder / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json is missing"):
        open_checkpoint(folder)
    (folder / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"image_encoder/model.safetensors is missing"):
        open_checkpoint(folder)


def test_an_encoder_of_another_width_is_a_sentence(tmp_path, folders):
    folder = copied(folders[1], tmp_path)
    edit_json(folder / "image_encoder" / "config.json", projection_dim=40)
    edit_weights(
        folder,
        "image_encoder",
        lambda t: {k: v[:40].clone() if "visual_projection" in k else v for k, v in t.items()},
    )
    with pytest.raises(CheckpointError, match=r"gives 40 numbers, the unet expects 48"):
        load_model(open_checkpoint(folder))
