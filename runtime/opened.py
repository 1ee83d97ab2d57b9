"""A bundle as the verbs take it: its folder or an opened one, with the checkpoint that PyTorch is to open."""

from dataclasses import replace
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.errors import UsageError


def opened_bundle(
    bundle: str | Path | Bundle, checkpoint: str | None = None, *, has_use: bool
) -> Bundle:
    """The opened bundle.

    Args:
        bundle: its folder, or an opened one.
        checkpoint: a folder or hub id, in the place of what the manifest names.
        has_use: whether PyTorch runs it at all.

    Raises:
        UsageError: a checkpoint that nothing would open.
        BundleError: not a bundle, or damaged.
    """
    if checkpoint is not None and not has_use:
        raise UsageError("`checkpoint` is what PyTorch opens, and nothing here runs in PyTorch")
    opened = open_bundle(bundle)
    return opened if checkpoint is None else replace(opened, checkpoint=checkpoint)


def require_one_at_once(bundle: Bundle, why: str) -> None:
    """Raise a UsageError for a bundle of batches: a live frame would wait for those after it."""
    batch = max(graph.batch for graph in bundle.manifest.graphs)
    if batch > 1:
        raise UsageError(
            f"{why}, so its frames go one by one, and {bundle.root} takes {batch} at once; export with `batch=1`"
        )
