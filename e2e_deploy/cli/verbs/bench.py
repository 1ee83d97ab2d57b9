"""``e2e-deploy bench``: latency percentiles and throughput of a bundle on this machine."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options, rebuild
from e2e_deploy.names import OPPONENTS, BackendChoice
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.runtime.checks.against import Against, AgainstDiffusers
    from e2e_deploy.runtime.checks.bench import BenchReport, BenchRow
    from e2e_deploy.runtime.checks.rates import RateResult


@click.command("bench")
@options.bundle_argument
@options.backend
@options.device
@options.checkpoint
@click.option("--frames", type=options.COUNT, default=50, show_default=True, help="Timed frames.")
@click.option(
    "--loop",
    is_flag=True,
    help="Also the whole loop: every stage at fixed rates, and the highest rate with at most 5 % drops.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=options.RATE,
    help="With --loop: frames a second; repeat for several.  [default: 10, 30, 60]",
)
@click.option(
    "--seconds",
    type=options.SECONDS,
    default=None,
    help="With --loop: length of each run.  [default: 3]",
)
@click.option(
    "--against",
    type=click.Choice(OPPONENTS),
    default=None,
    help="Another backend, timed in turn with the first; or diffusers, its own pipeline on the checkpoint, eager and "
    "compiled.",
)
@rebuild.option
@options.as_json
def command(
    bundle: str,
    backend: BackendChoice,
    rebuild_first: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Time BUNDLE's engine: frame on the host to result on the host, after a warm-up."""
    from e2e_deploy.progress import Stages
    from e2e_deploy.runtime.checks.bench import bench

    given = arguments["checkpoint"]
    if arguments["against"] not in ("torch", "diffusers"):  # which open it too
        arguments["checkpoint"] = rebuild.left_for(backend, given, rebuilt=rebuild_first)
    if rebuild_first:
        arguments["prepare"] = partial(rebuild.rebuild_plans, backend=backend, checkpoint=given)
    shown: list[BenchRow] = []

    def show(row: "BenchRow") -> None:
        if not as_json:
            _print_row(row, header=not shown)
        shown.append(row)

    report = bench(bundle, backend=backend, on_row=show, stages=Stages(), **arguments)
    if as_json:
        click.echo(to_json(_json(report), indent=2))


def _json(report: "BenchReport") -> dict[str, Any]:
    """The report for programs: a row's latency and loop stand in the row itself."""
    told = asdict(report)
    for row, table in zip(report.rows, told["rows"], strict=True):
        table |= table.pop("latency") | {"per_second": row.per_second}
        table |= table.pop("loop") or {}
        for name in ("device_latency", "against", "diffusers"):
            if table[name] is None:
                del table[name]
        if row.diffusers is not None:
            table["diffusers"]["sentence"] = row.diffusers.sentence
    return told


def _print_row(row: "BenchRow", *, header: bool) -> None:
    if header:
        click.echo(
            "frame    backend      precision  p50 ms  p95 ms  p99 ms  max ms  jitter  frames/s"
        )
    height, width = row.frame_size
    of = row.latency
    numbers = (of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms, of.jitter_ms)
    click.echo(
        f"{f'{height}x{width}':<8} {row.backend:<12} {row.precision:<9} "
        + " ".join(f"{number:7.1f}" for number in numbers)
        + f"  {row.per_second:8.1f}"
    )
    if (inside := row.device_latency) is not None:
        beside = of.p50_ms - inside.p50_ms
        click.echo(
            f"of it on the GPU: p50 {inside.p50_ms:.1f} ms; copies and the host add {beside:.1f} ms "
            f"({beside / inside.p50_ms:.0%})"
        )
    if row.against is not None:
        _print_against(row.against)
    if row.diffusers is not None:
        _print_diffusers(row.diffusers)
    if row.loop is not None:
        _print_rates(row.loop.rates)
        _print_peak(row.loop.peak)


def _print_against(other: "Against") -> None:
    found = other.gain
    how = f"{found.ratio:.2f}x ({found.low:.2f} to {found.high:.2f})"
    if found.is_noise:
        how = f"no difference within the noise ({found.low:.2f}x to {found.high:.2f}x)"
    click.echo(
        f"against {other.backend} ({other.precision}) in the same run: p50 {other.ours.p50_ms:.1f} ms, there "
        f"{other.theirs.p50_ms:.1f} ms: {how}"
    )


def _print_diffusers(found: "AgainstDiffusers") -> None:
    click.echo(found.sentence)
    _print_against(found.eager)
    if found.compiled is not None:
        _print_against(found.compiled)
    else:
        click.echo(f"diffusers was not compiled: {found.not_compiled}")
    parity = found.parity
    if parity.abs_rel is not None:
        click.echo(f"results differ from diffusers' by AbsRel {parity.abs_rel:.1e}")
    elif parity.mean_angle_deg is not None:
        click.echo(f"results differ from diffusers' by {parity.mean_angle_deg:.2g} degrees")
    else:
        click.echo("results hold NaN or infinity")


def _print_rates(results: "list[RateResult]") -> None:
    click.echo("rate Hz  stage       p50 ms  p95 ms  p99 ms  max ms  jitter")
    for result in results:
        for name, latency in result.stages.items():
            numbers = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
            click.echo(
                f"{result.rate_hz:<8.1f} {name:<10} "
                + " ".join(f"{number:7.1f}" for number in (*numbers, latency.jitter_ms))
            )
        click.echo(
            f"{result.rate_hz:<8.1f} {result.per_second:.1f} results/s, {result.dropped} of {result.captured} frames "
            f"dropped, {result.cpu:.0%} of a core"
        )


def _print_peak(peak: "RateResult | None") -> None:
    if peak is None:
        click.echo("peak: none; half of what the engine alone does is too fast for the loop")
        return
    age = peak.stages["age"].p50_ms
    click.echo(f"peak: {peak.per_second:.1f} results/s at {peak.rate_hz:.1f} Hz, age {age:.1f} ms")
