"""What a run says of itself before its first step."""

from collections.abc import Iterator, Mapping

from e2e_deploy.train.data.batches import Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.run.heldout import HeldOut
from e2e_deploy.train.run.resume import DataState, Progress, changed_data
from e2e_deploy.train.start import Start
from e2e_deploy.train.step.step import Stepper


def introduction(
    start: Start,
    stepper: Stepper,
    parts: tuple[Part, ...],
    held_out: HeldOut | None,
    progress: Progress,
    data_states: Mapping[str, DataState],
) -> Iterator[str]:
    """Lines for people: the start, the data, what is trained, and where a continued run goes on."""
    yield f"start: {start.checkpoint.describe()}"
    yield from (f"  {change}" for change in start.changes)
    yield from _of_data(parts, held_out)
    yield from _of_training(stepper)
    if progress.step:
        yield f"continuing after step {progress.step}"
        yield from (f"  {sentence}" for sentence in changed_data(progress.data, data_states))


def _of_data(parts: tuple[Part, ...], held_out: HeldOut | None) -> Iterator[str]:
    for part in parts:
        data = part.dataset
        yield f"data: {data.root} ({data.split}), {len(data)} images, ratio {part.weight}"
    datasets: list[FolderDataset] = [part.dataset for part in parts]
    for dataset in datasets + ([held_out.dataset] if held_out else []):
        if sentence := dataset.left_out_sentence():
            yield f"  {sentence}"


def _of_training(stepper: Stepper) -> Iterator[str]:
    config, optim = stepper.config, stepper.config.optim
    million = sum(p.numel() for _, p in stepper.named_parameters) / 1e6
    yield (
        f"training {' and '.join(stepper.forward.parts)} ({million:.1f} million weights) for "
        f"{config.task} on {stepper.device}, {config.model.precision}: "
        f"{optim.steps} steps of {optim.effective_batch} images = {_shares(stepper)}"
    )
    yield from (f"  {sentence}" for sentence in stepper.choices.sentences)
    if config.diffusion is not None:
        yield f"  on noisy latents ({config.diffusion.noise} noise), which a pipeline uses in several steps"
    elif stepper.objective.names:
        yield f"  the loss has the terms {', '.join(stepper.objective.names)}"
    if stepper.direction_weight:
        yield f"  and against inverted depth, with weight {stepper.direction_weight:g}"


def _shares(stepper: Stepper) -> str:
    """How the images of a step are shared by the processes."""
    optim, world = stepper.config.optim, stepper.accelerator.num_processes
    per_step = optim.effective_batch // optim.micro_batch
    each, rest = divmod(per_step, world)
    if rest:
        return f"{optim.micro_batch} x {per_step} for {world} processes, {each} or {each + 1} each"
    return f"{optim.micro_batch} x {each} x {world} processes"
