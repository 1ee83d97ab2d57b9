"""diffusers' own pipeline of a checkpoint beside our single step: the same weights, picture and noise, in float64.

For a family that diffusers has a pipeline for, one line is its test against it:
``assert_equal_to_its_pipeline(MarigoldDepthPipeline, folder, frame)``.
"""

import numpy as np
import torch
from torch import nn

from e2e_deploy.frames import plan_frame
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel

MAX_DIFFERENCE = 1e-4


def pipeline_results(
    pipeline_class, folder, frame, *, resolution=0, match=True, latents=None, steps=1
):
    """What diffusers' pipeline gives for a uint8 frame [H, W, 3]: a list of [H, W] or [H, W, 3] in float64.

    Args:
        pipeline_class: of diffusers, with its scheduler as the folder has it.
        folder: the checkpoint.
        frame: the picture.
        resolution: longest edge that the network sees; 0 for the frame's own size.
        match: give results at the frame's size.
        latents: noise [1, C, h, w] that it starts from, C channels for all results together; None for zeros.
        steps: of the scheduler.
    """
    pipeline = pipeline_class.from_pretrained(folder).to(torch.float64)
    pipeline.set_progress_bar_config(disable=True)
    rgb_13HW = torch.from_numpy(frame).permute(2, 0, 1)[None].double() / 255
    if latents is None:
        latents = torch.zeros(latents_shape(pipeline, frame, resolution))
    found_KCHW = pipeline(
        rgb_13HW,
        num_inference_steps=steps,
        processing_resolution=resolution,
        match_input_resolution=match,
        latents=latents.double(),
        output_type="pt",
    ).prediction
    return [
        (each[0] if len(each) == 1 else each.permute(1, 2, 0)).numpy().astype(np.float64)
        for each in found_KCHW
    ]


def latents_shape(pipeline, frame, resolution=0):
    """Shape [1, C, h, w] of the noise that a Marigold pipeline starts from."""
    seen_hw = plan_frame(frame.shape[:2], resolution, pipeline.vae_scale_factor).padded_hw
    channels = pipeline.unet.config.in_channels - pipeline.vae.config.latent_channels
    return (1, channels, *(side // pipeline.vae_scale_factor for side in seen_hw))


class InFloat64(nn.Module):
    """The network in double precision, so that the comparison measures mathematics and not rounding.

    ``latents`` are given to it as x_T; None for zeros, which it has as a constant.
    """

    def __init__(self, model, latents=None):
        super().__init__()
        self.model = model.double()
        self.latents = None if latents is None else latents.double()

    def forward(self, rgb_N3HW):
        z = self.model.encode(rgb_N3HW.double())
        return self.model.read(self.model.decode(self.model.predict_x0(z, self.latents)))


def our_results(folder, frame, *, resolution=0, pad=0, factor=1.0, latents=None, **named):
    """What our single step gives for the same frame, as ``pipeline_results`` has it; ``factor`` scales x0."""
    checkpoint = open_checkpoint(folder, **named)
    model = load_model(checkpoint)
    model.x0_from_output *= factor
    plan = model.plan(frame.shape[:2], resolution, pad)
    frames = FrameModel(InFloat64(model, latents), plan, checkpoint.identity.outputs)
    with torch.inference_mode():
        found = frames(torch.from_numpy(frame)[None])
    return [each[0].numpy() for each in (found if isinstance(found, tuple) else (found,))]


def assert_equal_to_its_pipeline(
    pipeline_class, folder, frame, *, resolution=0, latents=None, atol=MAX_DIFFERENCE, **named
):
    """Our single step is diffusers' pipeline at one step, in every result and pixel.

    ``named`` are family, task and settings for ``open_checkpoint``; the others are as of ``pipeline_results``.
    """
    expected = pipeline_results(
        pipeline_class, folder, frame, resolution=resolution, latents=latents
    )
    found = our_results(folder, frame, resolution=resolution, latents=latents, **named)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 100 * atol  # a flat picture would be equal to much
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)
