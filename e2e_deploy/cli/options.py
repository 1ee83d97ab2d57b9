"""Options that several verbs share."""

import click

backend = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto, onnxruntime, torch, tensorrt or tensorrt-rtx; a named one that is not here is an error.",
)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
bundle_argument = click.argument("bundle", type=click.Path(path_type=str))
task = click.option(
    "--task",
    type=click.Choice(["depth", "normals"]),
    default=None,
    help="What the checkpoint predicts, where its configs do not tell.  [default: depth]",
)
family = click.option(
    "--family",
    default=None,
    help="Kind of checkpoint (e2e-ft, marigold), where its configs do not tell.  [default: e2e-ft]",
)
