"""What a training run is: every setting, its default from the paper, one table of the TOML a class.

Defaults are E2E-FT's (arXiv 2409.11355, section 5 and the published scripts), ``loss.mean`` apart. Paths are relative
to the current folder. Knows: names, types, limits. Does not know: what contradicts what (``contradictions``), files.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from e2e_deploy.names import Domain, FamilyName, OnBad
from e2e_deploy.system.records import Count, CountOrZero, Limits

RANDOM = "random"
"""A start: no checkpoint."""

TrainTask = Literal["depth", "disparity", "normals", "geometry", "segmentation", "matting"]
"""What can be trained, of what checkpoints do."""

Weight = Annotated[float, Limits(0, 1e6)]
Positive = Annotated[float, Limits(0, open_low=True)]
Beta = Annotated[float, Limits(0, 1 - 1e-6)]
Side = Annotated[int, Limits(1, 16_384)]
Size = tuple[Side, Side]
Switch = Literal[True, False, "auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartConfig:
    """Where the weights come from."""

    checkpoint: str
    """A diffusers folder (Stable Diffusion 2, Marigold, E2E-FT), ``owner/name@<commit>`` on the hub,
    the ``out`` folder of a finished run, or ``random``: e2e-tiny's small network with weights from ``run.seed``."""
    family: FamilyName | None = None
    """Of a checkpoint whose configs do not tell: of several that look alike one may need other timesteps. Left out:
    what its configs say, else Stable Diffusion, which has no family."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """What random weights learn before they are trained end to end; Stable Diffusion brings both.

    From one data set, at the size of the training.
    """

    autoencoder_steps: Count = 1200
    """The VAE learns to reproduce pictures, depth and normals."""
    unet_steps: Count = 12_000
    """The UNet learns to turn the latent of a picture into that of its result, which costs no decoder."""
    views: Annotated[int, Limits(1, 1000)] = 8
    """Mirrored windows of every picture that the UNet sees."""
    images: Count = 4000
    """At most so many pictures, evenly spread; they are held in memory."""


CoderName = Literal["turbo", "nano"]
NumBlocks = Annotated[int, Limits(0, 64)]
NumLayers = Annotated[int, Limits(1, 64)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """A small VAE (diffusers' AutoencoderTiny, TAESD's layout) in the place of the start's, which teaches it.

    Its decoder learns the results of the teacher's decoder from the teacher's own x0, then its encoder the teacher's
    latents; no truth is read. The steps of ``optim`` follow with the small VAE; without a ``[[data]]`` table none do.
    With ``unet_layers`` the UNet loses layers too, and learns between the two what the teacher's makes of its latents.
    """

    size: Size
    """Height and width, multiples of 8, of what it sees: mirrored windows of the pictures at changing scale."""
    coder: CoderName | None = None
    """``turbo``: as large as TAESD, the default; ``nano``: a fortieth of its work, for small models."""
    width: Annotated[int, Limits(1, 1024)] | None = None
    """Channels of every layer, instead of the named coder's."""
    encoder_blocks: tuple[NumBlocks, NumBlocks, NumBlocks, NumBlocks] | None = None
    """Residual blocks of the encoder's levels, the finest first."""
    decoder_blocks: tuple[NumBlocks, NumBlocks, NumBlocks, NumBlocks] | None = None
    """Of the decoder's, the coarsest first."""
    pictures: str | None = None
    """Folder of PNG and JPEG pictures of any size, searched with the folders in it. Left out: those of the data."""
    decoder_steps: Count = 10_000
    encoder_steps: Count = 10_000
    decoder_lr: Positive = 1e-3
    encoder_lr: Positive = 1e-3
    unet_layers: tuple[NumLayers, ...] | None = None
    """Layers that each level of the UNet keeps, the finest first: Stable Diffusion has 2, 2, 2, 2, and one more on the
    way up, as this has. Left out: all of them."""
    unet_steps: Count = 10_000
    unet_lr: Positive = 5e-5
    """BK-SDM's (arXiv 2305.15798)."""
    x0_weight: Weight = 1.0
    """Of the error that the encoder makes in x0, beside that in the latent; 0 spares the passes through the UNet."""
    batch: Annotated[int, Limits(1, 4096)] = 8
    """Images a step."""
    uses: Annotated[int, Limits(1, 1000)] = 4
    """Steps that see each answer of the teacher, which costs far more than they do. While the UNet learns, an answer is
    a latent alone, and the teacher's UNet runs in every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """One folder data set of the mix."""

    root: str
    """Folder with ``dataset.toml``, or the address of a packed data set: ``s3://bucket/prefix``, ``https://host/path``."""
    cache_gb: Annotated[float, Limits(0, 10**6)] | None = None
    """Of a data set at an address: how many GB of it are kept on each machine's disk; left out: 20."""
    split: str = "train"
    ratio: Annotated[int, Limits(1, 10_000)] = 1
    """Micro-batches out of every ``sum of ratios``: 9 and 1 mix Hypersim and Virtual KITTI 2."""
    size: Size | None = None
    """Training height and width, multiples of 8: scaled to cover, centre cut out. Left out: as stored."""


Chance = Annotated[float, Limits(0, 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What changes a training picture while its truth stays true; each is a chance from 0 to 1, drawn for every image.

    The same run draws the same again, also when it goes on. Held-out pictures stay as they are.
    """

    colour: Chance = 0.0
    """Exposure, white balance, tone curve, saturation."""
    blur: Chance = 0.0
    """A lens out of focus, or a shaken camera."""
    noise: Chance = 0.0
    """A sensor's."""
    jpeg: Chance = 0.0
    """Compression, of quality 25 to 95."""
    smallest_view: Annotated[float, Limits(0.1, 1)] = 1.0
    """Random windows, with sides from this share of the picture's up to all of it; 1 keeps whole pictures. Pretraining
    and distillation have windows of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What is trained, and in which arithmetic."""

    family: FamilyName | None = None
    """How the result is used. ``marigold``, also where it is left out: depth or normals, at the last timestep, with 8
    channels. ``genpercept``: disparity, segmentation and matting too, at timestep 1 with x0 = -output, from the rgb
    latent alone, so that ``noise`` is ``none``."""
    domain: Domain | None = None
    """``task = "geometry"``: the scenes of all data, which GeoWizard is told; left out: indoor."""
    noise: Literal["zeros", "gaussian", "pyramid", "none"] = "zeros"
    """Second half of the UNet's input; ``none`` trains a 4-channel UNet that sees the rgb latent alone, and writes
    it with 8 channels, zero weights for the other half, which every pipeline runs. Engines feed zeros whatever the
    training used."""
    head: Literal["dpt"] | None = None
    """``dpt``: GenPercept's head on the UNet's features instead of x0 and the VAE's decoder, for depth and disparity;
    one that the start has goes on, else it begins with random weights. Its name among ``train`` is ``head``."""
    train: tuple[Literal["unet", "vae", "decoder", "head"], ...] = ("unet",)
    """``vae`` also trains encoder and decoder; random weights need it, the paper freezes them. ``decoder`` trains the
    decoder alone, as GenPercept's customised ones are."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast; weights, optimizer, last convolution and loss stay in float32. fp16 needs a GPU."""
    gradient_checkpointing: Switch = "auto"
    """Recompute activations of UNet and VAE in the backward pass: less memory, a third more time. ``auto``: where they
    would not fit; the memory is counted as the run begins, and said. ``[distil]`` counts nothing: there it is on where
    it is ``true``, and of the UNet alone."""
    resolution: Annotated[int, Limits(0, 16_384)] = 0
    """Default processing resolution written into the result; 0 keeps the start's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermsConfig:
    """What the errors of decoded pixels are, and the weight of each; a term that is not named has none.

    Left out as a whole: E2E-FT's, ``metres`` for depth and ``angle`` for normals; for pictures ``mse``, and for
    disparity ``mse``, ``ssi`` and ``gradient`` as GenPercept has them, 1, 0.5 and 2.
    """

    metres: Weight = 0.0
    """Depth: absolute error in metres after the best scale and shift, whatever their signs (E2E-FT)."""
    relative: Weight = 0.0
    """Depth: that error as a share of the true depth, AbsRel: a room counts as much as a street, and what is near most.
    """
    mse: Weight = 0.0
    """Squared error in [-1, 1]; depth and disparity from the 2 to the 98 per cent quantile of the picture."""
    l1: Weight = 0.0
    """Absolute error in [-1, 1]."""
    ssi: Weight = 0.0
    """Depth and disparity: absolute error in [-1, 1] after the best scale and shift; where that scale is negative,
    after the ratio of the medians."""
    gradient: Weight = 0.0
    """All but normals: absolute difference of the error between neighbours."""
    gradient_scales: Annotated[int, Limits(1, 6)] = 1
    """1 is GenPercept's; MiDaS has 4, each with every second pixel of the one before."""
    gradient_of: Literal["prediction", "aligned"] = "prediction"
    """The prediction as it is (GenPercept), or as ``ssi`` aligns it (MiDaS)."""
    angle: Weight = 0.0
    """Normals: the angle in radians, of all pixels (E2E-FT)."""
    open_angle: Weight = 0.0
    """Normals alone: the angle without the pixels that are exact, or exactly wrong, to 0.03 degrees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputsConfig:
    """Weights of the two results of a model that gives depth and normals at once (GeoWizard, E2E-FT)."""

    depth: Weight = 0.5
    normals: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig:
    """Marigold's objective instead of end-to-end losses: how wrong the UNet is about a noisy latent of the truth.

    Timestep and noise are drawn for each image. Latents that see a pixel without truth do not count.
    """

    noise: Literal["gaussian", "pyramid"] = "pyramid"
    """``pyramid`` adds coarser grids (multi-resolution noise), each ``strength`` times the one before."""
    strength: Annotated[float, Limits(0, 1)] = 0.9
    annealed: bool = True
    """``strength`` falls with the timestep, to nothing at 0."""
    zero_snr: bool = True
    """The schedule is changed to leave no signal at the last step (Marigold v1-1); false keeps the start's (v1-0)."""
    measured_steps: Annotated[int, Limits(1, 1000)] = 4
    """DDIM steps from seeded noise in which held-out pictures are measured, and the default of the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """How the errors of pixels become the loss of an optimizer step."""

    mean: Literal["step", "micro_batch"] = "step"
    """Over all valid pixels of the step, whatever ``optim.micro_batch`` and the number of processes are; or, as the
    paper's code, over those of each micro-batch and then over micro-batches, which gives the pixels of a sparse
    one more weight."""
    direction_weight: Annotated[float, Limits(0)] | None = None
    """Depth only: weight of the term against inverted depth (near = 1), which the paper's loss cannot see. Left out:
    1 where the run starts from random weights, 0 from a trained model, which has its direction."""
    terms: TermsConfig | None = None
    outputs: OutputsConfig | None = None
    """For ``task = "geometry"``. Left out: 0.5 and 1, the published weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: Positive = 3e-5
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Limits(0)] = 1e-2
    clip_norm: Annotated[float, Limits(0, math.inf, open_low=True)] = 1.0
    """Gradients are scaled down to this norm; inf leaves them as they are."""
    steps: Count = 20_000
    """Optimizer steps of the run."""
    warmup_steps: CountOrZero = 100
    decay_steps: Count = 20_000
    """The learning rate has fallen to ``final_lr_ratio`` at this step."""
    final_lr_ratio: Annotated[float, Limits(0, 1, open_low=True)] = 0.01
    micro_batch: Annotated[int, Limits(1, 4096)] = 2
    """Images per forward pass and process, all of one data set."""
    effective_batch: Annotated[int, Limits(1, 10**6)] = 32
    """Images per optimizer step over all processes; the rest is gradient accumulation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedConfig:
    """How the same steps take less time; what they compute changes by rounding alone."""

    compile: Switch = "auto"
    """Blocks of UNet and VAE by torch.compile, activations channels last. The first steps take minutes; a CPU needs a
    C++ compiler. ``auto``: on a GPU with triton, for 500 steps or more; never on a CPU."""
    images_per_pass: CountOrZero = 0
    """Images of a step that are computed together, a multiple of ``optim.micro_batch``: consecutive micro-batches of
    one size. 0: on a GPU as many as fit without gradient checkpointing, at most 16; on a CPU one micro-batch."""
    shard: bool = False
    """Each of several processes keeps its slice of the trained weights, their gradients and moments (FSDP2), for what
    does not fit one device; takes more time, for weights and gradients travel in every pass. Checkpoints are slices
    too, and any number of processes goes on from them, sharded or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Held-out pictures that are measured during the run."""

    root: str
    """A folder or an address, as in the data."""
    cache_gb: Annotated[float, Limits(0, 10**6)] | None = None
    """As in the data."""
    split: str = "val"
    every: Count = 1000
    """Steps between evaluations; the last step is always evaluated."""
    num_images: Count = 100
    """Spread evenly over the split."""
    size: Size | None = None
    """As in the data; left out: as stored."""
    select: Literal["last", "best"] = "last"
    """Which weights become the model: those of the last step, or those with the best held-out number (abs_rel,
    mean_deg) among the evaluations, kept in ``best.safetensors``. A continued run goes on from the newest checkpoint
    and keeps the best so far, unless the held-out pictures changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where the run lives and what it says."""

    out: str
    """Receives ``checkpoints/``, ``logs/`` (TensorBoard), ``log.jsonl`` and, at the end, ``model/``."""
    seed: Annotated[int, Limits(0, 2**63 - 1)] = 0
    """Of order, mirroring, noise and random weights."""
    checkpoint_every: Count = 1000
    keep: Count = 2
    """Newest checkpoints that stay."""
    workers: Annotated[int, Limits(0, 1024)] = 2
    """Processes per training process that read data; 0 reads in the training process."""
    log_every: Count = 10
    panel_every: CountOrZero = 500
    """Steps between pictures (rgb, target, prediction) in TensorBoard; 0 for none."""
    on_bad: OnBad = "skip"
    """What a damaged sample does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThenConfig:
    """One more run, which goes on from the result of the one before: as that one but for what is said here."""

    size: Size
    """Of all data and of the held-out pictures."""
    steps: Count
    """Of the run; its learning rate warms up and decays within them."""
    lr: Positive | None = None
    """Left out: as before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole training run."""

    task: TrainTask
    start: StartConfig
    run: RunConfig
    data: tuple[DataConfig, ...] = ()
    """At least one, unless ``distil`` is all that is asked for."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    augment: AugmentConfig | None = None
    eval: EvalConfig | None = None
    pretrain: PretrainConfig | None = None
    distil: DistilConfig | None = None
    diffusion: DiffusionConfig | None = None
    then: tuple[ThenConfig, ...] = ()
    """Runs that follow, usually with larger pictures; the last one's model is the result."""


def runs_of(config: TrainConfig) -> list[TrainConfig]:
    """The runs that ``config`` describes, in order, each without ``then``; the last one's folder is ``run.out``."""
    folders = [Path(config.run.out, "runs", str(n)) for n in range(1, len(config.then) + 1)]
    folders.append(Path(config.run.out))
    runs = [replace(config, then=(), run=replace(config.run, out=str(folders[0])))]
    for then, folder in zip(config.then, folders[1:], strict=True):
        before = runs[-1]
        optim = replace(before.optim, steps=then.steps, decay_steps=then.steps)
        following = replace(
            before,
            start=StartConfig(checkpoint=before.run.out),
            pretrain=None,
            distil=None,
            data=tuple(replace(part, size=then.size) for part in before.data),
            eval=None if before.eval is None else replace(before.eval, size=then.size),
            optim=optim if then.lr is None else replace(optim, lr=then.lr),
            run=replace(before.run, out=str(folder)),
        )
        runs.append(following)
    return runs
