"""A folder of results as a comparison, and as files for people: what ``compare_results`` does."""

from pathlib import Path

from e2e_deploy.errors import UsageError
from e2e_deploy.system.files import require_writable
from e2e_deploy.train.comparison.comparison import Comparison, compare
from e2e_deploy.train.comparison.page import results_page
from e2e_deploy.train.comparison.text import comparison_text
from e2e_deploy.train.data.files import write_bytes
from e2e_deploy.train.protocol.result import read_results


def compare_results(
    *folders: str | Path, html: str | Path | None = None, markdown: str | Path | None = None
) -> Comparison:
    """Put the results of ``evaluate_protocol`` side by side: model, backend and precision by set, with times.

    Every result stands beside the float32 result of the same weights on the same pictures, so that a row says what its
    precision and its backend cost. The published rows stand below.

    Args:
        folders: of results; those of several machines may be given together.
        html: file for a page that needs nothing else, ``.html``.
        markdown: file for the same as text, ``.md``.

    Returns:
        The comparison; ``comparison_text`` makes a text of it.

    Raises:
        UsageError: no folder is given, or a file cannot be written.
        DataError: a folder holds no result, or a damaged one.
        E2EDeployError: a file cannot be written after all.
    """
    if not folders:
        raise UsageError("`folders` is empty; give at least one folder of results")
    page = None if html is None else Path(html)
    text = None if markdown is None else Path(markdown)
    for path, suffix in ((page, ".html"), (text, ".md")):
        if path is not None:
            require_writable(path, suffix)
    comparison = compare(result for folder in folders for result in read_results(Path(folder)))
    if page is not None:
        write_bytes(page, results_page(comparison).encode())
    if text is not None:
        write_bytes(text, (comparison_text(comparison, style="markdown") + "\n").encode())
    return comparison
