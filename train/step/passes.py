"""Which micro-batches share a forward pass.

A step is one mean over its pixels, so how many of its images are computed together is a matter of memory and speed.
"""

from collections.abc import Iterable, Iterator

from e2e_deploy.train.data.batches import Batch


def in_passes(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Consecutive micro-batches of one shape, ``most`` at a time; those that do not make up so many come alone.

    So a pass has one of two sizes, which matters to what is compiled for a size.
    """
    together: list[Batch] = []
    for batch in batches:
        if together and together[0]["rgb"].shape != batch["rgb"].shape:
            yield from ([each] for each in together)
            together = []
        together.append(batch)
        if len(together) == most:
            yield together
            together = []
    yield from ([each] for each in together)


def num_passes(micro_batches: int, most: int) -> int:
    """How many passes ``in_passes`` makes of micro-batches of one shape."""
    return micro_batches // most + micro_batches % most
