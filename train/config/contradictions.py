"""What cannot be meant in a training run: settings that exclude each other or have no effect together.

Knows: the settings. Does not know: whether files exist, devices.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from e2e_deploy.kinds import KINDS
from e2e_deploy.model.families import FAMILIES, TASKS
from e2e_deploy.system.records import read_record
from e2e_deploy.train.config.distillation import contradictions_of_distillation
from e2e_deploy.train.config.settings import (
    RANDOM,
    AugmentConfig,
    OptimConfig,
    TrainConfig,
    runs_of,
)
from e2e_deploy.train.config.terms import FITTED, TERMS, fits_either_way, fitting_terms, weights_of
from e2e_deploy.train.data.resize import STRIDE
from e2e_deploy.train.shards.fetching import is_address

RESULT_FAMILIES = ("marigold", "genpercept")
"""What a trained model can be."""


def contradictions_of_parts(table: Mapping[str, Any]) -> list[str]:
    """Contradictions inside the sections that can be read although others cannot."""
    optim, _ = read_record(OptimConfig, table.get("optim", {}))
    return _optim_contradictions(optim) if optim is not None else []


def contradictions(config: TrainConfig) -> list[str]:
    """One sentence each, of all runs of ``config``."""
    problems = _contradictions_of_run(config) + _contradictions_of_pretraining(config)
    problems += contradictions_of_distillation(config)
    for number, following in enumerate(runs_of(config)[1:]):
        problems += [
            f"then[{number}]: {problem}"
            for problem in _contradictions_of_run(following)
            if problem not in problems
        ]
    return problems


def _contradictions_of_pretraining(config: TrainConfig) -> list[str]:
    if config.pretrain is None:
        return []
    problems = []
    if config.task not in ("depth", "normals"):
        problems.append(
            f"pretrain teaches depth or normals; {config.task} needs a start that has learned it"
        )
    if config.start.checkpoint != RANDOM:
        problems.append(
            f"pretrain is for start.checkpoint = {RANDOM!r}; {config.start.checkpoint!r} has learned that before"
        )
    if len(config.data) != 1 or config.data[0].size is None:
        problems.append("pretrain needs one [[data]] table with a size")
    if config.model.precision == "fp16":
        problems.append(
            'pretrain learns without a gradient scaler, which fp16 needs: use model.precision = "bf16" or "fp32"'
        )
    return problems


def _contradictions_of_run(config: TrainConfig) -> list[str]:
    problems = _optim_contradictions(config.optim)
    if not config.data and config.distil is None:
        problems.append("data is empty; expected at least one [[data]] table")
    kept = [(f"data[{i}]", part.root, part.cache_gb) for i, part in enumerate(config.data)]
    if config.eval is not None:
        kept.append(("eval", config.eval.root, config.eval.cache_gb))
    problems += [
        f"{name}.cache_gb is for a data set at an address, and {root} is a folder"
        for name, root, cache_gb in kept
        if cache_gb is not None and not is_address(root)
    ]
    if not config.model.train or len(set(config.model.train)) < len(config.model.train):
        problems.append(
            f"model.train is {list(config.model.train)}; expected some of 'unet', 'vae', 'decoder' and 'head', "
            "each once"
        )
    if {"vae", "decoder"} <= set(config.model.train):
        problems.append("model.train has vae and decoder, but the decoder is a part of the vae")
    if config.speed.images_per_pass % config.optim.micro_batch:
        problems.append(
            f"speed.images_per_pass {config.speed.images_per_pass} is not a multiple of "
            f"optim.micro_batch {config.optim.micro_batch}"
        )
    problems += _contradictions_of_family(config) + _contradictions_of_loss(config)
    problems += _contradictions_of_sharding(config)
    if config.augment == AugmentConfig():
        problems.append(
            "[augment] changes nothing; give colour, blur, noise or jpeg a chance or smallest_view a share below 1, "
            "or leave it out"
        )
    sizes = [(f"data[{i}].size", part.size) for i, part in enumerate(config.data)]
    if config.eval is not None:
        sizes.append(("eval.size", config.eval.size))
    problems += [
        f"{name} is {list(size)}; both sides must be multiples of {STRIDE}"
        for name, size in sizes
        if size is not None and any(side % STRIDE for side in size)
    ]
    if config.model.resolution % STRIDE:
        problems.append(
            f"model.resolution is {config.model.resolution}; not a multiple of {STRIDE}"
        )
    return problems


def _contradictions_of_sharding(config: TrainConfig) -> list[str]:
    if not config.speed.shard:
        return []
    problems = []
    if config.model.precision == "fp16":
        problems.append('speed.shard is for model.precision = "bf16" or "fp32"')
    if config.speed.compile is True:
        problems.append("speed.compile has no effect on what speed.shard cuts up; leave one out")
    if config.eval is not None and config.eval.select == "best":
        problems.append('eval.select = "best" keeps whole weights, which speed.shard cuts up')
    sizes = {part.size for part in config.data}
    if config.speed.images_per_pass > config.optim.micro_batch and (
        len(sizes) > 1 or None in sizes
    ):
        problems.append(
            "with speed.shard all processes compute the same number of passes: give all data one size, or leave "
            "speed.images_per_pass out"
        )
    return problems


def _contradictions_of_family(config: TrainConfig) -> list[str]:
    if config.task == "geometry":
        return _contradictions_of_geometry(config)
    name, problems = config.model.family or "marigold", []
    if config.model.domain is not None:
        problems.append(f"model.domain is for geometry; {config.task} models are told none")
    family, results = FAMILIES[name], [each for each in FAMILIES if each in RESULT_FAMILIES]
    if name not in results:
        return [*problems, f"model.family is {name}; what is trained can be {' or '.join(results)}"]
    if config.task not in family.tasks:
        able = [each for each in results if config.task in FAMILIES[each].tasks]
        problems.append(
            f"model.family {name} has no {config.task}"
            + (f"; {' and '.join(able)} has" if able else "")
        )
    if family.latents == (1,) and config.model.noise != "none":
        problems.append(
            f'model.noise is {config.model.noise}, but {name} sees the rgb latent alone: set model.noise = "none"'
        )
    if config.start.checkpoint == RANDOM and config.model.noise == "none":
        problems.append(
            "model.noise is none, but random weights take a second half of the UNet's input: begin with a checkpoint "
            "of 4 channels, or leave model.noise out"
        )
    problems += _contradictions_of_head(config)
    if family.latents == (1,) and config.diffusion is not None:
        problems.append(
            f"[diffusion] needs a second half of the UNet's input, which {name} has not"
        )
    return problems


def _contradictions_of_geometry(config: TrainConfig) -> list[str]:
    """Of depth and normals at once, whose result is of the start's family, GeoWizard."""
    model, problems = config.model, []
    if model.family is not None:
        problems.append(f"model.family is {model.family}; a geometry model stays what its start is")
    if model.noise == "none":
        problems.append("model.noise is none, but GeoWizard has a second half of its UNet's input")
    if model.head is not None or "head" in model.train:
        problems.append('model.head is for depth and disparity with model.family = "genpercept"')
    if config.start.checkpoint == RANDOM:
        problems.append(
            "task geometry needs a start that gives depth and normals at once (GeoWizard)"
        )
    return problems


def _contradictions_of_head(config: TrainConfig) -> list[str]:
    model, problems = config.model, []
    if model.head is None:
        return ["model.train has head; model.head says which"] if "head" in model.train else []
    if model.family != "genpercept" or config.task not in ("depth", "disparity"):
        problems.append('model.head is for depth and disparity with model.family = "genpercept"')
    if "head" not in model.train or not {"unet", "head"} >= set(model.train):
        problems.append(
            f"model.train is {list(model.train)}; with model.head it is ['head'] or ['unet', 'head'], and the VAE's "
            "decoder is not there"
        )
    sizes = [part.size for part in config.data] + ([config.eval.size] if config.eval else [])
    if None in sizes:
        problems.append("model.head needs the size of all data and held-out pictures")
    return problems


def _contradictions_of_loss(config: TrainConfig) -> list[str]:
    if config.diffusion is not None:
        return _contradictions_of_diffusion(config)
    kinds, loss, problems = TASKS[config.task], config.loss, []
    if loss.terms is not None:
        named = [term for term in TERMS if getattr(loss.terms, term)]
        fitting = [term for term in TERMS if any(term in fitting_terms(kind) for kind in kinds)]
        problems += [
            f"loss.terms.{term} has no meaning for {config.task}; its terms are {', '.join(fitting)}"
            for term in named
            if term not in fitting
        ]
        problems += [
            f"loss.terms gives {kind} no weight; name one of {', '.join(fitting_terms(kind))}"
            for kind in kinds
            if not weights_of(kind, loss.terms)
        ]
        if "open_angle" in named and len(named) > 1:
            problems.append(
                "loss.terms.open_angle counts pixels of its own, so no other term can stand beside it"
            )
        if "gradient" not in named and loss.terms != replace(
            loss.terms, gradient_scales=1, gradient_of="prediction"
        ):
            problems.append(
                "loss.terms.gradient_scales and gradient_of are of the gradient term, which has no weight"
            )
        if loss.terms.gradient_of == "aligned" and KINDS[kinds[0]].form != "distance":
            problems.append('loss.terms.gradient_of = "aligned" is for depth and disparity')
    if loss.outputs is not None and len(kinds) == 1:
        problems.append(f"loss.outputs is for a task of several results; {config.task} has one")
    if loss.direction_weight is not None and not ("depth" in kinds and fits_either_way(loss.terms)):
        problems.append(
            f"loss.direction_weight is for the terms {' and '.join(FITTED)} of depth; other losses know near from far, "
            "or normals' signs"
        )
    return problems


def _contradictions_of_diffusion(config: TrainConfig) -> list[str]:
    """Of a run that never decodes."""
    problems = [
        f"loss.{name} is for decoded results; with [diffusion] the loss is that of latents"
        for name in ("direction_weight", "terms", "outputs")
        if getattr(config.loss, name) is not None
    ]
    if config.model.noise != "zeros":
        problems.append(
            "model.noise is for end-to-end training; with [diffusion] diffusion.noise says what is added"
        )
    if config.model.train != ("unet",):
        problems.append(
            f"model.train is {list(config.model.train)}; with [diffusion] only the UNet can learn"
        )
    if len(TASKS[config.task]) > 1:
        problems.append(f"[diffusion] is for one result; {config.task} has several")
    drawn = config.diffusion
    if (
        drawn is not None
        and drawn.noise == "gaussian"
        and drawn != replace(drawn, strength=0.9, annealed=True)
    ):
        problems.append('diffusion.strength and annealed are of noise = "pyramid"')
    return problems


def _optim_contradictions(optim: OptimConfig) -> list[str]:
    problems = []
    if optim.effective_batch % optim.micro_batch:
        problems.append(
            f"optim.effective_batch {optim.effective_batch} is not a multiple of "
            f"optim.micro_batch {optim.micro_batch}"
        )
    if optim.warmup_steps >= optim.decay_steps:
        problems.append(
            f"optim.warmup_steps {optim.warmup_steps} must be below "
            f"optim.decay_steps {optim.decay_steps}"
        )
    return problems
