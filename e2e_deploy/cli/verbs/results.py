"""``e2e-deploy results``: results of evaluations side by side, in the terminal and as a page."""

from pathlib import Path

import click

from e2e_deploy.cli import options
from e2e_deploy.system.json_files import to_json


@click.command("results")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=options.PATH)
@click.option("--html", type=options.PATH, help="Write a page that needs nothing else.")
@click.option("--markdown", type=options.PATH, help="Write the same as Markdown.")
@options.as_json
def command(
    folders: tuple[Path, ...], html: Path | None, markdown: Path | None, as_json: bool
) -> None:
    """Put what `eval --protocol` wrote to each FOLDER side by side: model, backend and precision by set.

    Each result stands beside the float32 result of the same weights on the same pictures, which shows what a precision
    or a backend costs, and among the published rows.
    """
    from e2e_deploy.train.comparison.results import compare_results
    from e2e_deploy.train.comparison.text import comparison_text

    comparison = compare_results(*folders, html=html, markdown=markdown)
    click.echo(to_json(comparison.rows()) if as_json else comparison_text(comparison))
    for path in (html, markdown):
        if path is not None:
            click.echo(f"wrote {path}", err=True)
