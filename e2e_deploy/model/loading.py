"""From a checked checkpoint to its single-step model: which networks it is put together of."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.coders.coder import TwoCoders, stride_of, walk_coder
from e2e_deploy.model.families import DPT_HEAD, OWN_DECODER, STORED_PROMPT
from e2e_deploy.model.networks.dpt_head import FUSION_CHANNELS, DPTHead, walk_head
from e2e_deploy.model.networks.fourier import FourierUNet
from e2e_deploy.model.networks.geowizard import GeoWizardModel, class_labels
from e2e_deploy.model.networks.head_model import PIXELS, HeadModel
from e2e_deploy.model.networks.parts import compare_weights, load_part, read_weights
from e2e_deploy.model.networks.picture_context import load_picture_context
from e2e_deploy.model.networks.prompt import encode_prompt
from e2e_deploy.model.networks.stablenormal import StableNormalModel, load_controlnet
from e2e_deploy.model.networks.unet_features import ENDS, EndlessUNet, walk_features
from e2e_deploy.model.schedule import OneStep, last_step
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.names import DEFAULT_CODER, DOMAINS, TINY_CODER, FamilyName
from e2e_deploy.packages import require


def load_model(checkpoint: Checkpoint) -> SingleStepModel:
    """The checkpoint as a SingleStepModel in float32, eval mode, on the CPU, without gradients.

    Raises:
        CheckpointError: a missing or unknown key, a wrong shape, an unusable config.
    """
    build = _BUILDERS.get(checkpoint.identity.family.name, _single_step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers warns about its own deprecated attributes
        return build(checkpoint)


def the_step(checkpoint: Checkpoint) -> OneStep:
    """The one step of a checkpoint: as its family fixes it, else the last one of its noise schedule.

    Raises:
        CheckpointError: the schedule is none, where it is needed.
    """
    family = checkpoint.identity.family
    if family.timestep is not None and family.x0_from_output is not None:
        return OneStep(family.timestep, 0.0, family.x0_from_output)
    step = last_step(checkpoint.scheduler)
    timestep = step.timestep if family.timestep is None else family.timestep
    if family.x0_from_output is not None:
        return OneStep(timestep, 0.0, family.x0_from_output)
    return OneStep(timestep, step.from_xt, step.from_output)


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What every model is told of its checkpoint and its one step."""
    step = the_step(checkpoint)
    return {
        "task": checkpoint.identity.task,
        "family": checkpoint.identity.family,
        "timestep": step.timestep,
        "x0_from_xt": step.from_xt,
        "x0_from_output": step.from_output,
        "full_z_range": checkpoint.full_z_range,
        "outputs": checkpoint.identity.outputs,
    }


def _single_step(checkpoint: Checkpoint) -> SingleStepModel:
    diffusers = require("diffusers", "export")
    family, facts = checkpoint.identity.family, _facts(checkpoint)
    unet_class = FourierUNet if family.unet_block else diffusers.UNet2DConditionModel
    unet = load_part(checkpoint, "unet", unet_class)
    _check_labels(checkpoint, unet.config)
    vae = _load_vae(checkpoint)
    context_1LC = encode_prompt(checkpoint)
    _check_context(checkpoint, context_1LC, unet.config.cross_attention_dim)
    labels = torch.tensor([family.class_labels]) if family.class_labels else None
    return SingleStepModel(
        unet,
        vae,
        context_1LC,
        class_labels_1D=labels,
        **facts,
    )


def _load_vae(checkpoint: Checkpoint) -> Any:
    """What encodes and decodes: the checkpoint's VAE, but for the halves that another has the place of."""
    coder = checkpoint.coder
    if coder is None:
        return _own_vae(checkpoint)
    configs, weights = {"vae": coder.config}, {"vae": coder.weights}
    other = _read_vae(replace(checkpoint, configs=configs, weights=weights))
    if coder.part == "both":
        return other
    own = _own_vae(checkpoint)
    encodes = coder.gives("encoder")
    return TwoCoders(other if encodes else own, own if encodes else other).eval()


def _read_vae(checkpoint: Checkpoint) -> Any:
    """The VAE, of the class that its config names."""
    classes = require("diffusers", "export")
    # A null is the default, also of what the library gives on as it is, such as the scaling factor.
    config = {k: value for k, value in checkpoint.configs["vae"].items() if value is not None}
    name = config.get("_class_name") or DEFAULT_CODER
    if name == TINY_CODER:  # which writes it, and warns of it when it is read again
        config.pop("block_out_channels", None)
    described = replace(checkpoint, configs={**checkpoint.configs, "vae": config})
    return load_part(described, "vae", getattr(classes, name), walk=walk_coder)


def _own_vae(checkpoint: Checkpoint) -> Any:
    """The checkpoint's VAE, with the decoder of its own where it has one."""
    vae = _read_vae(checkpoint)
    if checkpoint.identity.has(OWN_DECODER[0]):
        for folder in OWN_DECODER:
            name, weights = folder.removeprefix("vae_"), checkpoint.weights[folder]
            part = getattr(vae, name, None)
            if part is None:
                raise CheckpointError(
                    f"{checkpoint.path / folder} is there, but vae/config.json describes a VAE without {name}"
                )
            compare_weights(weights, part.state_dict())
            part.load_state_dict(read_weights(weights), assign=True)
        vae.requires_grad_(False)
    return vae


def _with_head(checkpoint: Checkpoint) -> SingleStepModel:
    """A model whose UNet's features go to a DPT head, where the checkpoint has one."""
    if not checkpoint.identity.has(DPT_HEAD):
        return _single_step(checkpoint)
    stored = checkpoint.weights["unet"]
    kept = {key: value for key, value in stored.tensors.items() if not key.startswith(ENDS)}
    # The published pipeline drops its last layers too, from UNets that still have them.
    weights = {**checkpoint.weights, "unet": replace(stored, tensors=kept)}
    unet = load_part(replace(checkpoint, weights=weights), "unet", EndlessUNet, walk=walk_features)
    widths = list(unet.config.block_out_channels)
    config = {"neck_hidden_sizes": widths, "fusion_hidden_size": FUSION_CHANNELS}
    config |= checkpoint.configs.get(DPT_HEAD, {})
    if config["neck_hidden_sizes"] != widths:
        raise CheckpointError(
            f"{checkpoint.path / DPT_HEAD / 'config.json'} asks for features of {config['neck_hidden_sizes']} "
            f"channels; the unet gives {widths}"
        )
    described = replace(checkpoint, configs={**checkpoint.configs, DPT_HEAD: config})
    head = load_part(described, DPT_HEAD, DPTHead, walk=walk_head)
    vae = _load_vae(checkpoint)
    stride = stride_of(vae)
    if stride != PIXELS:
        raise CheckpointError(
            f"{checkpoint.path / 'vae'} shrinks pictures {stride} times; with a DPT head it must be {PIXELS} times"
        )
    context_1LC = encode_prompt(checkpoint)
    _check_context(checkpoint, context_1LC, unet.config.cross_attention_dim)
    return HeadModel(
        unet,
        vae,
        context_1LC,
        head=head,
        stretch="frame" if checkpoint.settings["stretch"] == "frame" else "none",
        **_facts(checkpoint),
    )


def _check_labels(checkpoint: Checkpoint, config: Any) -> None:
    family, takes = checkpoint.identity.family, None
    if config.class_embed_type == "projection":
        takes = config.projection_class_embeddings_input_dim
    if family.class_labels and takes != len(family.class_labels):
        has = f"a class embedding of {takes} numbers" if takes else "no class embedding"
        raise CheckpointError(
            f"{checkpoint.path / 'unet' / 'config.json'} has {has}; {family.title} has one of "
            f"{len(family.class_labels)} numbers"
        )


def _check_context(checkpoint: Checkpoint, context_1LC: Tensor, width: int) -> None:
    if context_1LC.shape[-1] != width:
        stored = checkpoint.identity.has(STORED_PROMPT)
        source = STORED_PROMPT if stored else "the text encoder"
        raise CheckpointError(
            f"{source} in {checkpoint.path} gives {context_1LC.shape[-1]} numbers a token, "
            f"the unet expects {width}"
        )


def _geowizard(checkpoint: Checkpoint) -> SingleStepModel:
    diffusers = require("diffusers", "export")
    family, facts = checkpoint.identity.family, _facts(checkpoint)
    unet = load_part(checkpoint, "unet", diffusers.UNet2DConditionModel)
    vae = _load_vae(checkpoint)
    width, domain = unet.config.cross_attention_dim, checkpoint.settings["domain"]
    context_1LC = picture_context = None
    if "image_encoder" in family.parts:
        picture_context = load_picture_context(checkpoint, width)
    else:
        context_1LC = encode_prompt(checkpoint, family.prompt.format(**checkpoint.settings))
        _check_context(checkpoint, context_1LC, width)
    labels_KD = class_labels(None if family.prompt else DOMAINS[DOMAINS.index(domain)])
    takes = unet.config.projection_class_embeddings_input_dim
    if unet.config.class_embed_type != "projection" or takes != labels_KD.shape[1]:
        raise CheckpointError(
            f"{checkpoint.folder('unet') / 'config.json'} has a class embedding of {takes} numbers "
            f"({unet.config.class_embed_type}); {family.title} has a projection of {labels_KD.shape[1]}"
        )
    return GeoWizardModel(
        unet,
        vae,
        context_1LC,
        picture_context=picture_context,
        class_labels_1D=labels_KD,
        **facts,
    )


def _stablenormal(checkpoint: Checkpoint) -> SingleStepModel:
    diffusers = require("diffusers", "export")
    family, facts = checkpoint.identity.family, _facts(checkpoint)
    unet = load_part(checkpoint, "unet", diffusers.UNet2DConditionModel)
    vae = _load_vae(checkpoint)
    width = unet.config.cross_attention_dim
    # Published without a text encoder: 257 tokens of zeros. As many equal tokens as there are weigh as one.
    context_1LC = torch.zeros(1, 1, width)
    if "text_encoder" in family.parts:
        context_1LC = encode_prompt(checkpoint)
        _check_context(checkpoint, context_1LC, width)
    seed = checkpoint.settings.get("seed")
    return StableNormalModel(
        unet,
        vae,
        context_1LC,
        controlnet=load_controlnet(checkpoint, unet),
        seed=None if seed is None else int(seed),
        **facts,
    )


_BUILDERS: dict[FamilyName, Callable[[Checkpoint], SingleStepModel]] = {
    "genpercept": _with_head,
    "geowizard": _geowizard,
    "geowizard-v2": _geowizard,
    "stablenormal-turbo": _stablenormal,
    "stablenormal-turbo-v1": _stablenormal,
}
"""Of the families whose networks are put together in another way."""
