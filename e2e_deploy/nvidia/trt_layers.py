"""What a plan consists of, counted from the engine inspector's JSON.

Knows the JSON of TensorRT 10 and 11; knows none of the libraries' objects.
"""

import json
import re
from collections import Counter
from typing import Any

# The first that matches counts: "BF16" contains no "FP16", but "Half" and "FP16" are the same.
_PRECISIONS = (
    ("bf16", r"BF16|BFloat16"),
    ("fp16", r"FP16|Half"),
    ("fp32", r"FP32|Float\b"),
    ("int", r"Int\d+|UInt8|Bool"),
)
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")


def _precision(layer: dict[str, Any]) -> str:
    """Of its first output."""
    outputs = layer.get("Outputs") or [{}]
    text = " ".join(str(outputs[0].get(key, "")) for key in _TYPE_KEYS)
    return next(
        (name for name, pattern in _PRECISIONS if re.search(pattern, text, re.IGNORECASE)), "other"
    )


def summarise_layers(information: str) -> dict[str, int]:
    """Number of ``layers``, of them by precision of the output (fp32, fp16, bf16, int, other), and of ``reformat``.

    Args:
        information: the inspector's JSON; empty counts come from a plan without layer names.
    """
    try:
        layers = json.loads(information).get("Layers", [])
    except (ValueError, AttributeError):
        return {}
    counts: Counter[str] = Counter()
    for layer in layers:
        counts["layers"] += 1
        if not isinstance(layer, dict):  # only names were kept
            counts["other"] += 1
            continue
        counts[_precision(layer)] += 1
        kind = f"{layer.get('LayerType', '')} {layer.get('Name', '')}"
        counts["reformat"] += "reformat" in kind.lower()
    return dict(sorted(counts.items()))
