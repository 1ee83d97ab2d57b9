"""The contenders in torch: diffusers' Marigold pipeline, and our model in every form that may be the fastest.

All take uint8 frames [N, H, W, 3] on the device and give depth [N, H, W] there, at a processing size that is the
frame's own. All hold the same weights. Knows how they are made; knows nothing of clocks and results.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.full_size import SCHEDULER
from benchmarks.gpu.contenders.models import BODIES, Staged, make_model
from benchmarks.gpu.timing import Call, Device
from e2e_deploy.errors import UnavailableError
from e2e_deploy.frames import FramePlan
from e2e_deploy.model.single_step import FrameModel

CUDA_ONLY = "compiled and recorded contenders run on a CUDA device only"


@dataclass(frozen=True)
class Recipe:
    """How a contender is made of a body.

    Attributes:
        name: in the results.
        body: a key of BODIES.
        channels_last: weights and activations in that order.
        compiled: torch.compile's mode, one compilation a stage; not compiled if empty.
        graph: each stage is a recorded CUDA graph.
        by_default: whether it runs unless it is named.
    """

    name: str
    body: str
    channels_last: bool = False
    compiled: str = ""
    graph: bool = False
    by_default: bool = True

    @property
    def seconds(self) -> float:
        """What making it may take."""
        return {"": 5.0, "default": 120.0}.get(self.compiled, 400.0)


AUTOTUNED = "max-autotune-no-cudagraphs"
RECIPES = (
    Recipe("plain", "plain"),
    Recipe("plain_graph", "plain", graph=True),
    Recipe("specialised", "specialised"),
    Recipe("specialised_graph", "specialised", graph=True),
    Recipe("specialised_without_upsampling_pass", "not_upsampled"),
    Recipe("specialised_as_exported", "exported"),
    Recipe("specialised_channels_last", "specialised", channels_last=True),
    Recipe("specialised_channels_last_graph", "specialised", channels_last=True, graph=True),
    Recipe(
        "specialised_channels_last_compiled", "specialised", channels_last=True, compiled="default"
    ),
    Recipe(
        "specialised_channels_last_compiled_graph",
        "specialised",
        channels_last=True,
        compiled="default",
        graph=True,
    ),
    Recipe(
        "turbo_channels_last_compiled_graph",
        "turbo",
        channels_last=True,
        compiled="default",
        graph=True,
        by_default=False,
    ),
    Recipe(
        "without_upsampling_pass_channels_last_compiled_graph",
        "not_upsampled",
        channels_last=True,
        compiled="default",
        graph=True,
        by_default=False,
    ),
    Recipe(
        "specialised_channels_last_autotuned_graph",
        "specialised",
        channels_last=True,
        compiled=AUTOTUNED,
        graph=True,
        by_default=False,
    ),
)


@dataclass
class Contender:
    """Something that can be timed.

    Attributes:
        call: frames on the device to depth.
        stages: its three parts, empty where it cannot be divided.
        weights_bytes: of its parameters and constants.
        recorded_bytes: GPU memory that its CUDA graphs keep.
        work: a key of the counted work; empty where none was counted for it.
        owns: frames and depth of its own, where its weights are not the others'.
        close: releases what it holds.
    """

    call: Call
    stages: dict[str, Call] = field(default_factory=dict)
    weights_bytes: int = 0
    recorded_bytes: int = 0
    work: str = ""
    owns: tuple[Any, Any] | None = None
    close: Callable[[], None] = lambda: None


def chain(stages: dict[str, Call]) -> Call:
    """One call after the other."""

    def call(value: Tensor) -> Tensor:
        for stage in stages.values():
            value = stage(value)
        return value

    return call


def weights_of(*modules: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(
        t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers())
    )


def recorded(call: Call, example: Tensor, pool: Any, *, clone: bool = True) -> Call:
    """A call as a CUDA graph: the input is copied in, the output is the same tensor every time.

    The graph reads a clone of ``example``, or without ``clone`` its own memory.
    """
    given = example.clone() if clone else example
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # lazy loading, compilation and the choice of kernels cannot be recorded
            call(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result: Tensor = call(given)

    def replay(value: Tensor) -> Tensor:
        given.copy_(value)
        graph.replay()
        return result

    return replay


class Bodies:
    """The networks of one run and their compiled stages, made when they are first asked for and then shared."""

    def __init__(self, device: Device, *, small: bool) -> None:
        self.device, self.small = device, small
        self.get = functools.cache(self._make)
        self._stages = functools.cache(self._make_stages)

    def _make(self, kind: str, channels_last: bool) -> Any:
        model = make_model(self.device.name, small=self.small)
        body = BODIES[kind].make(model, self.device).requires_grad_(False).eval()
        # On the device: diffusers copies a plain number there in every call, which no CUDA graph can record.
        body.timestep = torch.tensor(body.timestep, device=self.device.name)
        return body.to(memory_format=torch.channels_last) if channels_last else body

    def _make_stages(
        self, kind: str, channels_last: bool, compiled: str, plan: FramePlan
    ) -> dict[str, Call]:
        body = self.get(kind, channels_last)
        stages = Staged(body, plan, self.device.dtype, channels_last=channels_last).stages()
        if not compiled:
            return stages
        mode = None if compiled == "default" else compiled
        return {name: torch.compile(s, dynamic=False, mode=mode) for name, s in stages.items()}

    def own_result(
        self, kind: str, plan: FramePlan, frames_NHW3: Tensor
    ) -> tuple[Tensor, Any] | None:
        """Frames and the fp32 model's depth [N, H, W], where the weights are not the others'."""
        change = BODIES[kind].model
        if change is None:
            return None
        model = change(make_model(self.device.name, small=self.small))
        whole = FrameModel(model, plan, ("depth",)).eval().to(self.device.name)
        return frames_NHW3, whole(frames_NHW3).cpu().numpy()

    def stages(self, recipe: Recipe, plan: FramePlan) -> dict[str, Call]:
        """The recipe's three calls for frames of that plan, not recorded yet."""
        return self._stages(recipe.body, recipe.channels_last, recipe.compiled, plan)


def build(recipe: Recipe, bodies: Bodies, plan: FramePlan, example_NHW3: Tensor) -> Contender:
    """The contender of a recipe for inputs like ``example_NHW3``; its first calls may still compile.

    Raises:
        UnavailableError: it needs a GPU.
    """
    if (recipe.compiled or recipe.graph) and not bodies.device.is_cuda:
        raise UnavailableError(CUDA_ONLY)
    stages, before = bodies.stages(recipe, plan), bodies.device.reserved()
    if recipe.graph:
        pool, value, made = torch.cuda.graph_pool_handle(), example_NHW3, dict[str, Call]()
        for name, stage in stages.items():
            made[name] = recorded(stage, value, pool)
            value = made[name](value)
        stages = made
    return Contender(
        chain(stages),
        stages,
        weights_of(bodies.get(recipe.body, recipe.channels_last)),
        bodies.device.reserved() - before if recipe.graph else 0,
        BODIES[recipe.body].work,
        owns=bodies.own_result(recipe.body, plan, example_NHW3),
    )


def build_diffusers(
    device: Device, frame_hw: tuple[int, int], batch: int, *, small: bool, compiled: bool
) -> Contender:
    """The Marigold depth pipeline of diffusers at one step and zeros for noise, its networks compiled or not.

    Raises:
        UnavailableError: diffusers is not here, or a GPU to compile for.
    """
    if compiled and not device.is_cuda:
        raise UnavailableError(CUDA_ONLY)
    import diffusers

    model = make_model(device.name, small=small).to(device.dtype)
    weights = weights_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.MarigoldDepthPipeline(
            unet=model.unet,
            vae=model.vae,
            # the last step then returns x0 itself, as our model does
            scheduler=diffusers.DDIMScheduler(**SCHEDULER | {"set_alpha_to_one": True}),
            text_encoder=None,
            tokenizer=None,
            prediction_type="depth",
            default_denoising_steps=1,
            default_processing_resolution=max(frame_hw),
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.empty_text_embedding = model.context_1LC  # as it keeps it after its first picture
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet, dynamic=False)
        pipeline.vae.encoder = torch.compile(pipeline.vae.encoder, dynamic=False)
        pipeline.vae.decoder = torch.compile(pipeline.vae.decoder, dynamic=False)
    latents = torch.zeros(
        batch, 4, frame_hw[0] // 8, frame_hw[1] // 8, dtype=device.dtype, device=device.name
    )

    def call(frame_NHW3: Tensor) -> Tensor:
        rgb_N3HW = frame_NHW3.permute(0, 3, 1, 2).to(device.dtype) / 255
        depth_N1HW: Tensor = pipeline(
            rgb_N3HW,
            num_inference_steps=1,
            processing_resolution=0,
            latents=latents,
            batch_size=batch,
            output_type="pt",
        ).prediction
        return depth_N1HW[:, 0].float()

    return Contender(call, weights_bytes=weights, work="plain")
