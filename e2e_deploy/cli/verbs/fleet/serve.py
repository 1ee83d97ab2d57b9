"""``e2e-deploy serve``: a bundle's engine over HTTP on this machine."""

from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options

if TYPE_CHECKING:
    from e2e_deploy.runtime.serve.server import ModelServer, ServeReport


@click.command("serve")
@options.bundle_argument
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="At 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--name",
    default=None,
    help="Of the model, in addresses.  [default: the bundle's folder, with the frame size where it holds several]",
)
@options.backend
@options.device
@click.option(
    "--frame-size",
    type=options.frame_size,
    metavar="HxW",
    default=None,
    help="Of a bundle that holds several: which to serve.  [default: the first]",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Requests that may be on their way at once; more are answered with 429.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=options.SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds in which a request must be there and its answer be taken.",
)
def command(bundle: str, **arguments: Any) -> int:
    """Serve BUNDLE at http://127.0.0.1:PORT until Ctrl-C or SIGTERM, which answer what was taken first.

    Speaks the KServe v2 protocol (/v2/models/NAME/infer, with JSON or binary tensors), takes the file of a picture at
    /v2/models/NAME/picture and answers with a 16-bit PNG, and counts for Prometheus at /metrics.
    """
    from e2e_deploy.runtime.serve.server import serve

    report = serve(bundle, on_start=_say_start, **arguments)
    _say_report(report)
    return 0 if report.complete else 1


def _say_start(server: "ModelServer") -> None:
    height, width = server.engine.frame_size
    click.echo(
        f"{server.name}: {' and '.join(server.engine.outputs)} of frames of {height}x{width}, "
        f"{server.engine.describe()}; Ctrl-C ends",
        err=True,
    )
    if note := server.engine.manifest.checkpoint.note:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{server.url}/v2/models/{server.name}")


def _say_report(report: "ServeReport") -> None:
    refused = ", ".join(f"{count} {word}" for word, count in report.refused.items())
    click.echo(
        f"{report.answered} requests answered in {report.seconds:.0f} s"
        + (f"; refused: {refused}" if refused else "")
        + ("" if report.complete else "; some that were taken were not answered"),
        err=True,
    )
