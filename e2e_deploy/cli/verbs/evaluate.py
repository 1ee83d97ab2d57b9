"""``e2e-deploy eval``: accuracy of a checkpoint or bundle on a folder data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.train.evaluate import Predict


@click.command("eval")
@click.argument("model", type=click.Path(path_type=str, readable=False))
@click.argument("data", type=options.PATH)
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=options.COUNT, help="Measure this many images, evenly spread.")
@click.option(
    "--resolution",
    type=options.RESOLUTION,
    default=None,
    help="Longest edge the network sees, for a checkpoint; 0 keeps the pictures' own.  [default: the checkpoint's]",
)
@click.option(
    "--alignment",
    type=click.Choice(["depth", "disparity"]),
    default="depth",
    show_default=True,
    help="Space in which scale and shift are fitted.",
)
@click.option("--csv", "csv_path", type=options.NewFile(".csv"), help="Write metrics per image.")
@click.option(
    "--worst", type=options.NewFile(".png"), help="Write a PNG with the eight worst images."
)
@options.task
@options.family
@options.backend
@options.device
@options.as_json
def command(
    model: str,
    data: Path,
    split: str,
    limit: int | None,
    resolution: int | None,
    alignment: Any,
    csv_path: Path | None,
    worst: Path | None,
    task: str | None,
    family: str | None,
    backend: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure MODEL (a bundle, or a checkpoint in PyTorch float32) on the folder data set DATA."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from e2e_deploy.bundle.bundle import is_bundle
    from e2e_deploy.errors import ParityError
    from e2e_deploy.train.data.folder import FolderDataset, split_folder
    from e2e_deploy.train.data.folder_spec import load_spec
    from e2e_deploy.train.evaluate import evaluate

    options.refuse_inside(data, csv_path, worst)
    split_folder(data, load_spec(data), split)  # a wrong name is said before the model is loaded
    if is_bundle(model):
        found, predict = _bundle(model, backend, device)
    else:
        found, predict = _checkpoint(model, family, task, resolution, device)
    dataset = FolderDataset(data, split, task=found)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task("measuring", total=limit or len(dataset))
        result = evaluate(
            predict,
            dataset,
            task=found,
            alignment=alignment,
            limit=limit,
            depth_range_m=(max(dataset.spec.min_m, 1e-5), dataset.spec.max_m),
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
            csv_path=csv_path,
            worst_sheet=worst,
        )
    if as_json:
        click.echo(to_json({"model": model, "data": str(data), "split": split} | asdict(result)))
    else:
        click.echo(f"{found} on {data} ({split}): {result.num_images} images")
        for name, value in result.values().items():
            click.echo(f"  {name:<14} {value:.4f}")
    for reason, count in result.left_out.items():
        click.echo(f"{count} images were left out: {reason}", err=True)
    if result.problem:
        raise ParityError(result.problem)


def _bundle(folder: str, backend: str, device: str) -> "tuple[Any, Predict]":
    from e2e_deploy.runtime.engine import load
    from e2e_deploy.runtime.fit import Fit

    engine = load(folder, backend=backend, device=device)
    click.echo(f"backend: {engine.describe()}", err=True)

    def predict(frame: Any) -> Any:
        fit = Fit(frame.shape[:2], engine.frame_size)
        return fit.to_source(engine(fit.to_engine(frame)))

    return engine.manifest.task, predict


def _checkpoint(
    spec: str, family: str | None, task: str | None, resolution: int | None, device: str
) -> "tuple[Any, Predict]":
    from e2e_deploy.packages import require

    torch = require("torch", "export")
    from e2e_deploy.errors import UnavailableError
    from e2e_deploy.frames import FramePlan
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.loading import load_model
    from e2e_deploy.model.single_step import FrameModel

    checkpoint = open_checkpoint(spec, family=family, task=task)
    click.echo(checkpoint.describe(), err=True)
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch sees no CUDA device here; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_model(checkpoint)
    longest_edge = checkpoint.resolution if resolution is None else resolution
    models: dict[FramePlan, FrameModel] = {}

    def predict(frame: Any) -> Any:
        plan = network.plan(frame.shape[:2], longest_edge)
        if plan not in models:
            models[plan] = FrameModel(network, plan, network.task).to(device)
        with torch.inference_mode():
            return models[plan](torch.from_numpy(frame)[None].to(device))[0].cpu().numpy()

    return network.task, predict
