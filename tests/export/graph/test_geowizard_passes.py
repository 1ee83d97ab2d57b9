import copy
import functools

import pytest
import torch
import transformers

from e2e_deploy.export.graph.precision import set_attention, to_precision
from e2e_deploy.export.graph.specialise import PASSES, count_macs, specialise
from e2e_deploy.export.graph.specialised_model import SPECIALISED
from e2e_deploy.model.families import FAMILIES
from e2e_deploy.model.networks.geowizard import GeoWizardModel, class_labels
from e2e_deploy.model.networks.picture_context import PictureContext
from tests.export.random_models import random_model, random_rgb, randomise

RGB = random_rgb(2, 3, 24, 16)
LIMIT = 1e-9
CLIP = transformers.CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    projection_dim=24,
    image_size=28,
    patch_size=14,
    hidden_act="quick_gelu",
)


@functools.cache
def original(name):
    """A random GeoWizard in float64 and its results."""
    labels = class_labels("outdoor" if name == "geowizard" else None).double()
    classes = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 10}
    classes["projection_class_embeddings_input_dim"] = labels.shape[1]
    base = random_model(unet=classes, tokens=4)
    context = None
    if name == "geowizard":
        encoder = transformers.CLIPVisionModelWithProjection(CLIP).double()
        randomise(encoder, torch.Generator().manual_seed(3))
        context = PictureContext(encoder, mean=(0.5, 0.4, 0.3), deviation=(0.3, 0.2, 0.1), side=28)
    model = GeoWizardModel(
        base.unet,
        base.vae,
        None if context else base.context_1LC,
        picture_context=context,
        task="geometry",
        family=FAMILIES[name],
        timestep=999,
        x0_from_xt=0.0,
        x0_from_output=-1.0,
        class_labels_1D=labels,
    )
    model = model.double().requires_grad_(False).eval()
    return model, model(RGB)


def distance(model, expected):
    with torch.no_grad():
        return float((model(RGB) - expected).abs().max() / expected.abs().max())


OWN = ("time embedding", "picture token", "picture scale", "first convolution", "latent scales")
"""Passes that do something else to GeoWizard than to other models."""
ALONE = [("geowizard", step) for step in PASSES if step.name in OWN]
ALONE += [("geowizard-v2", step) for step in PASSES if step.name == "empty prompt"]


@pytest.mark.parametrize(("name", "step"), ALONE, ids=lambda value: getattr(value, "name", value))
def test_a_pass_alone_is_exact(name, step):
    model, expected = original(name)
    special = SPECIALISED[type(model)](copy.deepcopy(model))
    with torch.no_grad():
        step.run(special)
    assert distance(special, expected) < LIMIT


@pytest.mark.parametrize("name", ["geowizard", "geowizard-v2"])
def test_all_passes_are_exact_and_leave_less_to_do(name):
    model, expected = original(name)
    special, reports = specialise(copy.deepcopy(model), macs_hw=(24, 16), sizes_hw=[(24, 16)])
    assert distance(special, expected) < LIMIT
    assert reports[0].macs_before == count_macs(model, (24, 16))[""]
    told = {report.name: report for report in reports}
    names = ["first convolution", *(["picture token"] if name == "geowizard" else ["empty prompt"])]
    for each in names:
        assert told[each].macs_after < told[each].macs_before
    left = {path for path, _ in special.named_modules()}
    assert not any(path.endswith(("time_emb_proj", "class_embedding")) for path in left)
    if name == "geowizard":
        assert not any("attn2.to_" in path for path in left)


def test_the_halves_are_told_apart_by_their_biases():
    model, expected = original("geowizard")
    special, _ = specialise(copy.deepcopy(model), sizes_hw=[(24, 16)])
    for module in special.modules():
        if type(module).__name__ == "BiasPerResult":
            module.bias_KC11.copy_(module.bias_KC11.flip(0))
    assert distance(special, expected) > 0.01


def test_attention_of_the_image_encoder_is_ours_and_equal():
    model, expected = original("geowizard")
    for fused in (False, True):
        changed = copy.deepcopy(model)
        set_attention(changed, fused=fused)
        assert not any(type(m).__name__ == "CLIPAttention" for m in changed.modules())
        assert distance(changed, expected) < LIMIT


@pytest.mark.parametrize("specialised", [True, False])
def test_half_precision_is_near(specialised):
    model, _ = original("geowizard")
    model = copy.deepcopy(model).float()
    rgb = RGB.float()
    expected = model(rgb)
    if specialised:
        model, _ = specialise(model, sizes_hw=[(24, 16)])
    half = to_precision(model, "bf16")
    with torch.no_grad():
        got = half(rgb)
    assert got.dtype == torch.float32
    assert (got - expected).abs().mean() < 0.02
