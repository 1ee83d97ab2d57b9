"""``e2e-deploy eval``: accuracy of checkpoints and bundles on a folder data set, or by a published protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options
from e2e_deploy.cli.wording import with_options
from e2e_deploy.names import (
    KITTI_MASKS,
    OPPONENTS,
    PROTOCOLS,
    RESULT_KINDS,
    SET_NAMES,
    SPACINGS,
    KittiMask,
    Opponent,
    ProtocolName,
    ResultKind,
    SetName,
    Spacing,
    TaskName,
)
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.progress import Count
    from e2e_deploy.train.accuracy import Evaluation
    from e2e_deploy.train.protocol.run import ProtocolReport


class Sets(click.ParamType[tuple[SetName, ...]]):
    """Names of evaluation sets, commas between them."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[SetName, ...]:
        """The names, or click's sentence and exit code 2."""
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if word not in SET_NAMES:
                self.fail(f"{word!r} is not one of {', '.join(SET_NAMES)}.", param, ctx)
        return tuple(name for name in SET_NAMES if name in words)


@click.command("eval")
@click.argument(
    "models",
    metavar="MODEL...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=str, readable=False),
)
@click.argument("data", type=options.PATH)
@click.option("--split", help="Of the folder data set.  [default: test]")
@click.option(
    "--result",
    type=click.Choice(RESULT_KINDS),
    help="Of a model that gives several: what is measured on the folder data set.  [default: the first]",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="Measure on the published sets below DATA, by this protocol, beside the published numbers.",
)
@click.option(
    "--sets",
    type=Sets(),
    help="Of the protocol; one that is not here is an error.  [default: all here]",
)
@click.option(
    "--results",
    type=options.PATH,
    help="Folder of the protocol's results; what is in it is not measured again.  [default: results]",
)
@click.option(
    "--kitti-mask", type=click.Choice(KITTI_MASKS), help="Of the protocol.  [default: eigen]"
)
@click.option(
    "--published-input/--plain-input",
    default=None,
    help="Of the protocol: pictures of normals sets are tinted as in the published evaluation.  [default: published]",
)
@click.option("--limit", type=options.COUNT, help="Measure this many images, evenly spread.")
@click.option(
    "--resolution",
    type=options.RESOLUTION,
    default=None,
    help=(
        "Longest edge the network sees, for a checkpoint; 0 keeps the pictures' own.  "
        "[default: the protocol's, else the checkpoint's]"
    ),
)
@click.option("--rows", type=options.PATH, help="Write metrics per image: .csv or .parquet.")
@click.option("--worst", type=options.PATH, help="Write a PNG with the worst images.")
@options.task
@options.family
@click.option(
    "--backend",
    type=click.Choice(OPPONENTS),
    default="auto",
    show_default=True,
    help="Of a bundle; diffusers runs a checkpoint in diffusers' own pipeline, for the published baselines.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Of diffusers' pipeline.  [default: the checkpoint's]",
)
@click.option(
    "--spacing",
    type=click.Choice(SPACINGS),
    help="Of its DDIM timesteps.  [default: the checkpoint's]",
)
@click.option(
    "--ensemble",
    type=click.IntRange(1, 100),
    help="Predictions that it aligns and merges for each image.  [default: 1]",
)
@click.option("--seed", type=options.SEED, help="Of its noise.  [default: 1234]")
@options.device
@options.as_json
def command(
    models: tuple[str, ...],
    data: Path,
    split: str | None,
    result: ResultKind | None,
    protocol: ProtocolName | None,
    sets: tuple[SetName, ...] | None,
    results: Path | None,
    kitti_mask: KittiMask | None,
    published_input: bool | None,
    limit: int | None,
    resolution: int | None,
    rows: Path | None,
    worst: Path | None,
    task: TaskName | None,
    family: str | None,
    backend: Opponent,
    steps: int | None,
    spacing: Spacing | None,
    ensemble: int | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure MODEL, a bundle or a checkpoint in PyTorch float32, on the folder data set DATA.

    With --protocol: each MODEL, on the published sets below the folder DATA.
    """
    from e2e_deploy.errors import ParityError
    from e2e_deploy.progress import Count

    shared: dict[str, Any] = {
        "limit": limit,
        "backend": backend,
        "device": device,
        "task": task,
        "family": family,
        "resolution": resolution,
        "steps": steps,
        "spacing": spacing,
        "ensemble": ensemble,
        "seed": seed,
        "rows": rows,
        "worst": worst,
    }
    of_protocol: dict[str, Any] = {
        "sets": sets,
        "results": results,
        "kitti_mask": kitti_mask,
        "published_input": published_input,
    }
    of_protocol = {name: value for name, value in of_protocol.items() if value is not None}
    of_folder = {"split": split, "result": result}
    of_folder = {name: value for name, value in of_folder.items() if value is not None}
    _check(models, of_folder, protocol, of_protocol, shared)
    if protocol is None:
        with Count("measuring", tenths=False) as count:
            problems = [
                _folder(
                    models[0], data, split or "test", {**shared, "result": result}, count, as_json
                )
            ]
    else:
        with Count("measuring", tenths=False) as count:
            reports = [
                _by_protocol(model, data, protocol, {**shared, **of_protocol}, count)
                for model in models
            ]
        _print_reports(reports, as_json)
        problems = [problem for report in reports for problem in report.problems]
    if said := list(filter(None, problems)):
        raise ParityError("; ".join(said))


def _check(
    models: Sequence[str],
    of_folder: Mapping[str, object],
    protocol: ProtocolName | None,
    of_protocol: Mapping[str, object],
    shared: Mapping[str, object],
) -> None:
    """Refuse what would change nothing."""
    from e2e_deploy.errors import UsageError

    if protocol is not None and of_folder:
        raise UsageError(
            f"`{next(iter(of_folder))}` is for folder data sets; a protocol has its own sets and measures every result"
        )
    if protocol is None and of_protocol:
        raise UsageError(f"`{next(iter(of_protocol))}` needs `protocol`")
    if protocol is None and len(models) > 1:
        raise UsageError(f"{len(models)} models need `protocol`; a folder data set takes one")
    for name in ("rows", "worst"):
        if len(models) > 1 and shared[name] is not None:
            raise UsageError(f"`{name}` is one file, and {len(models)} models were given")


def _folder(
    model: str, data: Path, split: str, shared: Mapping[str, Any], count: "Count", as_json: bool
) -> str | None:
    """Print what one model got on a folder data set; gives what makes it worthless, if anything."""
    from e2e_deploy.verbs.evaluate import evaluate

    result: Evaluation = evaluate(
        model,
        data,
        split=split,
        on_progress=count,
        on_note=lambda note: count.say(with_options(note)),
        **shared,
    )
    if as_json:
        click.echo(to_json({"model": model, "data": str(data), "split": split} | asdict(result)))
    else:
        click.echo(f"{' and '.join(result.kinds)} on {data} ({split}): {result.num_images} images")
        for name, value in result.values().items():
            click.echo(f"  {name:<14} {value:.4f}")
    for reason, number in result.left_out.items():
        click.echo(f"{number} images were left out: {reason}", err=True)
    return result.problem


def _by_protocol(
    model: str, root: Path, protocol: ProtocolName, given: Mapping[str, Any], count: "Count"
) -> "ProtocolReport":
    from e2e_deploy.verbs.protocol import evaluate_protocol

    return evaluate_protocol(
        model,
        root,
        protocol=protocol,
        on_progress=count,
        on_note=lambda note: count.say(with_options(note)),
        **given,
    )


def _print_reports(reports: Sequence["ProtocolReport"], as_json: bool) -> None:
    """Print what each model got; several beside each other first, for what one precision costs against another."""
    from e2e_deploy.train.comparison.comparison import compare
    from e2e_deploy.train.comparison.text import comparison_text
    from e2e_deploy.train.protocol.published_table import published_table

    results = [result for report in reports for result in report.results]
    if as_json:
        click.echo(to_json([asdict(result) for result in results]))
        return
    comparison = compare(results)
    if len(reports) > 1:
        click.echo(comparison_text(comparison, published=False) + "\n")
    for section in comparison.sections:
        missing = [each for report in reports for each in report.missing]
        reasons = {each.name: each.reason for each in missing if each.measure == section.measure}
        click.echo(published_table(section.measure, section.own_rows(reasons)))
    for result in results if len(reports) == 1 else []:  # of several it is said above
        for clause in result.differences:
            click.echo(f"{result.contender.label()} on {result.set}, not as published: {clause}")
        for reason, number in result.left_out.items():
            click.echo(f"{result.set}: {number} left out: {reason}", err=True)
    for told in dict.fromkeys(each.told for report in reports for each in report.missing):
        click.echo(f"not measured: {told}", err=True)
    for folder in dict.fromkeys(report.folder for report in reports):
        click.echo(f"results: {folder}", err=True)
