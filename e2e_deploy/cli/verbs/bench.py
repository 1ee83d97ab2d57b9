"""``e2e-deploy bench``: latency percentiles and throughput of a bundle on this machine."""

import datetime
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options, rebuild
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.runtime.checks.bench import RateResult

PACKAGES = (
    *("numpy", "opencv-python", "av", "onnxruntime-gpu", "onnxruntime"),
    *("torch", "tensorrt", "tensorrt-rtx"),
)


@click.command("bench")
@options.bundle_argument
@options.backend
@options.device
@options.checkpoint
@click.option(
    "--frames",
    "count",
    type=options.COUNT,
    default=50,
    show_default=True,
    help="Timed frames.",
)
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
    default=(10.0, 30.0, 60.0),
    show_default=True,
    help="With --loop: frames a second; repeat for several.",
)
@click.option(
    "--seconds",
    type=options.SECONDS,
    default=3.0,
    show_default=True,
    help="With --loop: length of each run.",
)
@click.option("--against", default=None, help="Another backend, timed in turn with the first.")
@rebuild.option
@options.as_json
def command(
    bundle: str,
    backend: str,
    device: str,
    checkpoint: str | None,
    count: int,
    loop: bool,
    rates: tuple[float, ...],
    seconds: float,
    against: str | None,
    rebuild_first: bool,
    as_json: bool,
) -> None:
    """Time BUNDLE's engine: frame on the host to result on the host, after a warm-up."""
    from e2e_deploy.assets.pictures import reference_frames
    from e2e_deploy.bundle.bundle import open_bundle
    from e2e_deploy.runtime.checks.bench import at_rate, compare, find_peak, resident_mib
    from e2e_deploy.runtime.engine import load
    from e2e_deploy.runtime.timing import WARM_UP, measure
    from e2e_deploy.system.interrupts import interruptible

    opened = open_bundle(bundle)
    if rebuild_first:
        opened = rebuild.rebuild_plans(opened, backend)
    has_use = "torch" in (backend, against)
    opened = options.with_checkpoint(opened, checkpoint, has_use=has_use)
    rows: list[dict[str, Any]] = []

    def time_all() -> None:
        for size in opened.manifest.frame_sizes:
            with load(opened, backend=backend, device=device, frame_size=size) as engine:
                frames = list(reference_frames(size))
                latency = measure(engine, frames, count=count)
                row: dict[str, Any] = {
                    "frame_size": list(size),
                    "backend": engine.backend.name,
                    "device": engine.backend.device,
                    "precision": opened.manifest.precision,
                    "warm_up": WARM_UP,
                    **asdict(latency),
                    "per_second": latency.per_second,
                }
                if against is not None:
                    with load(opened, backend=against, device=device, frame_size=size) as other:
                        ours, theirs = compare(engine, other, frames, count=count)
                        row["against"] = {
                            "backend": other.backend.name,
                            "device": other.backend.device,
                            "ours": asdict(ours),
                            "theirs": asdict(theirs),
                            "ratio_of_medians": theirs.p50_ms / ours.p50_ms,
                        }
                if loop:
                    row["memory_mib"] = [resident_mib()]
                    results = [at_rate(engine, frames, rate, seconds) for rate in rates]
                    peak = find_peak(
                        lambda rate, e=engine, f=frames: at_rate(e, f, rate, seconds),  # type: ignore[misc]
                        latency.per_second,
                    )
                    row["rates"] = [asdict(result) for result in results]
                    row["peak"] = None if peak is None else asdict(peak)
                    row["memory_mib"].append(resident_mib())
                rows.append(row)
                if not as_json:
                    _print_row(row, header=len(rows) == 1)
                    if loop:
                        _print_rates(results)
                        _print_peak(peak)

    interruptible(time_all)
    if as_json:
        manifest = opened.manifest
        report = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "installed": _installed(),
            "versions": manifest.versions,
            "checkpoint": {"id": manifest.checkpoint.id, "sha256": manifest.checkpoint.sha256},
            "files": {graph.onnx: manifest.files[graph.onnx].sha256 for graph in manifest.graphs},
        }
        click.echo(to_json(report | {"rows": rows}, indent=2))


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _print_row(row: dict[str, Any], *, header: bool) -> None:
    if header:
        click.echo(
            "frame    backend      precision  p50 ms  p95 ms  p99 ms  max ms  jitter  frames/s"
        )
    label = "x".join(str(side) for side in row["frame_size"])
    columns = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "jitter_ms")
    click.echo(
        f"{label:<8} {row['backend']:<12} {row['precision']:<9} "
        + " ".join(f"{row[key]:7.1f}" for key in columns)
        + f"  {row['per_second']:8.1f}"
    )
    if other := row.get("against"):
        click.echo(
            f"against {other['backend']} in the same run: p50 {other['ours']['p50_ms']:.1f} ms, there "
            f"{other['theirs']['p50_ms']:.1f} ms: {other['ratio_of_medians']:.2f}x"
        )


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
