"""``e2e-deploy bench``: latency percentiles and throughput of a bundle on this machine."""

import json
import platform
from dataclasses import asdict
from typing import Any

import click

from e2e_deploy.cli import options


@click.command("bench")
@options.bundle_argument
@options.backend
@options.device
@click.option(
    "--frames",
    "count",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Timed frames.",
)
@options.as_json
def command(bundle: str, backend: str, device: str, count: int, as_json: bool) -> None:
    """Time BUNDLE's engine: frame on the host to result on the host, after a warm-up."""
    from e2e_deploy.bundle import open_bundle
    from e2e_deploy.pictures import reference_frames
    from e2e_deploy.runtime.engine import Engine
    from e2e_deploy.runtime.timing import WARM_UP, measure

    opened = open_bundle(bundle)
    rows: list[dict[str, Any]] = []
    for size in opened.manifest.frame_sizes:
        with Engine.load(opened, backend=backend, device=device, frame_size=size) as engine:
            latency = measure(engine, list(reference_frames(size)), count=count)
            rows.append(
                {
                    "frame_size": list(size),
                    "backend": engine.backend.name,
                    "device": engine.backend.device,
                    "precision": opened.manifest.precision,
                    "warm_up": WARM_UP,
                    **asdict(latency),
                    "per_second": latency.per_second,
                }
            )
    if as_json:
        report = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
        click.echo(
            json.dumps(report | {"versions": opened.manifest.versions, "rows": rows}, indent=2)
        )
        return
    click.echo("frame    backend      precision  p50 ms  p95 ms  p99 ms  max ms  frames/s")
    for row in rows:
        label = "x".join(str(side) for side in row["frame_size"])
        click.echo(
            f"{label:<8} {row['backend']:<12} {row['precision']:<9} "
            + " ".join(f"{row[key]:7.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
            + f"  {row['per_second']:8.1f}"
        )
