"""The official data sets that can be prepared, one call for all.

Knows: which options each of them has. Does not know: any layout.
"""

from collections.abc import Sequence
from pathlib import Path

from e2e_deploy.errors import UsageError
from e2e_deploy.names import DATA_KINDS, DataKind, OnBad
from e2e_deploy.train.preparation.conversion import PrepareReport, Progress
from e2e_deploy.train.preparation.hypersim import prepare_hypersim
from e2e_deploy.train.preparation.vkitti2 import prepare_vkitti2


def prepare_data(
    kind: DataKind,
    source: str | Path,
    out: str | Path,
    *,
    normals: bool = True,
    val_scenes: Sequence[str] = (),
    workers: int = 1,
    on_bad: OnBad = "skip",
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Turn the official download in ``source`` into the folder data set ``out``; killed runs continue.

    Args:
        kind: hypersim or vkitti2.
        source: folder of the download; the layout is in ``train/preparation/<kind>.py``.
        out: folder data set to write.
        normals: Hypersim alone: False prepares depth without normals.
        val_scenes: Virtual KITTI 2 alone: scenes (Scene01, 02, 06, 18, 20) that become the split val.
        workers: processes; 1 works in this one.
        on_bad: name damaged samples and go on, or stop at the first.
        on_progress: called with (samples done, samples in all).

    Raises:
        UsageError: an argument does not belong to this data set, or ``out`` was prepared with other settings.
        DataError: nothing was found in ``source``, or a sample is damaged and ``on_bad`` is stop.
        UnavailableError: h5py, which reads Hypersim, is not installed.
        E2EDeployError: a file cannot be written, or a worker process died.
    """
    if kind not in DATA_KINDS:
        raise UsageError(f"unknown data set {kind!r}; there are {', '.join(DATA_KINDS)}")
    if workers < 1:
        raise UsageError(f"`workers` is {workers}; expected at least 1")
    if kind == "hypersim":
        if val_scenes:
            raise UsageError("`val_scenes` is for vkitti2; Hypersim has an official val split")
        return prepare_hypersim(
            source,
            out,
            with_normals=normals,
            workers=workers,
            on_bad=on_bad,
            on_progress=on_progress,
        )
    if not normals:
        raise UsageError("`normals=False` is for hypersim; vkitti2's normals come from its depth")
    return prepare_vkitti2(
        source,
        out,
        val_scenes=val_scenes,
        workers=workers,
        on_bad=on_bad,
        on_progress=on_progress,
    )
