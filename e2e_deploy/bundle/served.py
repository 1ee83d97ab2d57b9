"""What servers call the graphs of a bundle, and their tensors: the same names in Triton and in `e2e-deploy serve`."""

import re

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, TensorSpec
from e2e_deploy.errors import UsageError

VERSION = "1"
"""Of every model: a bundle has one."""
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
"""The KServe v2 protocol's names; Triton's schema writes TYPE_ before them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def model_name(bundle: Bundle, graph: GraphEntry, name: str | None = None) -> str:
    """Name of the model that serves ``graph``: the bundle's folder, or ``name``, and where there are several its size.

    Raises:
        UsageError: ``name`` has other characters than letters, digits, ``.``, ``_`` and ``-``, or is too long.
    """
    if name is None:
        whole = bundle.root.resolve().name
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", whole).strip(".-_")[:80] or "model"
    elif not _NAME.fullmatch(name):
        raise UsageError(
            f"`name` is {name[:100]!r}; expected up to 100 letters, digits and . _ -, the first a letter or digit"
        )
    else:
        base = name
    if len({each.onnx for each in bundle.manifest.graphs}) == 1:
        return base
    height, width = graph.frame_hw
    return f"{base}_{height}x{width}"


def served_shape(graph: GraphEntry, spec: TensorSpec) -> list[int]:
    """Shape of a tensor as clients see it: of a graph that takes several pictures at once the first axis is open."""
    return [-1, *spec.shape[1:]] if graph.batch > 1 else list(spec.shape)
