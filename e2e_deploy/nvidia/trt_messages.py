"""What TensorRT and TensorRT-RTX say, as one sentence with a remedy.

Knows the libraries' texts as a table; knows none of their objects.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from e2e_deploy.errors import (
    E2EDeployError,
    PlanDamagedError,
    PlanMismatchError,
    UnavailableError,
)

_LONGEST = 500
_SOURCE = re.compile(r"\.? In \w+ at /\S+?(?=[ )]|$)")
_PREFIX = re.compile(r"^(\[[^\]]*\]|I\w+::\w+:) ")
NO_KERNEL = re.compile(r"is_decomposable|dedicated kernel")
NO_DRIVER = re.compile(r"(cudaError|error:) 35\b|driver version is insufficient")


class BuildError(E2EDeployError):
    """The library refuses a graph, or gives up building it."""


@dataclass(frozen=True)
class Remedy:
    """What to do about a message that matches ``pattern``, and the error it becomes."""

    pattern: str
    text: str
    kind: type[E2EDeployError] = BuildError


# The first that matches counts.
PARSE_REMEDIES = (
    Remedy(
        r"type UInt8",
        "uint8 has to be cast before anything else is done with it",
    ),
    Remedy(
        r"same type|identical types?|types? .*(mismatch|match)|must have type|is of type",
        "a strongly typed builder converts nothing by itself: export the graph in one precision, with a Cast "
        "wherever the type changes",
    ),
    Remedy(
        r"Plugin not found",
        "it is no standard operator and needs a plugin, which bundles do not carry: replace it in the model, "
        'or export with `engine="onnx"`',
    ),
    Remedy(
        r"MODEL_DESERIALIZE|Failed to parse|cannot be found|external|weights",
        "the file or its weights are damaged or missing: export again",
    ),
)
BUILD_REMEDIES = (
    Remedy(
        r"FP32 GEMM is not supported|HW-specific datatypes: b16",
        'Turing has neither fp32 products nor bf16, and this graph needs them: leave out `targets=["sm75"]`',
    ),
    Remedy(
        r"bad_alloc|[Oo]ut ?[Oo]f ?[Mm]emory|OOM|insufficient memory|allocat",
        "it ran out of memory: close other programs, use a smaller frame size or a lower optimisation level, or fix "
        "the sides of an open graph",
    ),
    Remedy(
        r"Could not find any implementation",
        'no kernel fits: allow more workspace, use a smaller frame size, or export with `engine="tensorrt-rtx"`',
    ),
    Remedy(
        NO_KERNEL.pattern,
        "no fused attention kernel fits this head size: export with a lower opset, or at a static size",
    ),
    Remedy(
        NO_DRIVER.pattern,
        "this build needs a GPU with its driver: build on the machine that has it, or without an optional target",
        UnavailableError,
    ),
)
LOAD_REMEDIES = (
    Remedy(
        r"magicTag|kSERIALIZATION_VERSION|[Ss]erialization version|[Vv]ersion tag|VERSION_MISMATCH",
        "it was built by another version of the library, or is damaged",
        PlanMismatchError,
    ),
    # After choose_plan: the plan's target is this GPU's, so another plan would be refused too.
    Remedy(
        r"UNSUPPORTED_CC|does not support this compute capability",
        "it does not serve this GPU, and a new plan would be refused too: use TensorRT "
        '(`backend="tensorrt"`) or PyTorch\'s compiler (`backend="inductor"`)',
        UnavailableError,
    ),
    Remedy(
        r"compute capability|incompatible device|different .*device",
        "it was built for another GPU",
        PlanMismatchError,
    ),
    Remedy(
        r"OLD_CUDA_DRIVER|OLD_CUDA_RUNTIME|CUDA_ERROR|" + NO_DRIVER.pattern,
        "the NVIDIA driver is missing or too old: install a newer one",
        UnavailableError,
    ),
    Remedy(
        r"[Oo]ut ?[Oo]f ?[Mm]emory|INSUFFICIENT_GPU_MEMORY",
        "the GPU has too little free memory: close other programs, or use a smaller frame size",
        UnavailableError,
    ),
)


def tidy(messages: Sequence[str]) -> str:
    """NVIDIA's messages as one line: no source positions, no repeats, no complaints that only follow from the first."""
    causes = [m for m in messages if not NO_DRIVER.search(m)] or list(messages[:1])
    lines = []
    for message in causes:
        text = (
            " ".join(line for line in message.splitlines() if not NO_DRIVER.search(line)) or message
        )
        text = _PREFIX.sub("", _SOURCE.sub("", " ".join(text.split())))
        if text not in lines:
            lines.append(text)
    joined = "; ".join(lines)
    return joined if len(joined) <= _LONGEST else joined[: _LONGEST - 4] + " ..."


def explain(
    what: str, messages: Sequence[str], remedies: Sequence[Remedy], *, default: Remedy
) -> E2EDeployError:
    """The error for ``what`` went wrong: NVIDIA's words, then what to do.

    Args:
        what: the start of the sentence, for example "TensorRT-RTX 1.7 cannot build the plan".
        messages: what the library said; may be empty.
        remedies: looked through in order.
        default: used when none matches; its pattern is not read.
    """
    everything = "\n".join(messages)
    remedy = next((r for r in remedies if re.search(r.pattern, everything)), default)
    said = tidy(messages)
    return remedy.kind(f"{what}: {said}; {remedy.text}" if said else f"{what}; {remedy.text}")


def explain_parser(title: str, *, code: str, desc: str, node: str, operator: str) -> E2EDeployError:
    """The error for one ParserError.

    Args:
        title: library and version.
        code: name of its ErrorCode.
        desc: its description; sometimes just "false".
        node: name of the node; empty when none is to blame.
        operator: its operator.
    """
    where = f" at node {node!r} ({operator})" if operator else ""
    words = [] if desc.strip() in ("", "false", "true") else [desc]
    if code.startswith("UNSUPPORTED") and not words:
        return BuildError(
            f"{title} does not support the operator {operator} at node {node!r}; "
            'replace it in the model, or export with `engine="onnx"`'
        )
    default = Remedy("", 'change the model there, or export with `engine="onnx"`')
    return explain(f"{title} refuses the graph{where}", words, PARSE_REMEDIES, default=default)


def explain_load(what: str, messages: Sequence[str], rebuild: str) -> E2EDeployError:
    """The error for a plan that the library would not load.

    Args:
        what: the start of the sentence.
        messages: what the library said.
        rebuild: the command that makes a new one, said where that helps.
    """
    error = explain(
        what,
        messages,
        LOAD_REMEDIES,
        default=Remedy("", "it is damaged or not a plan", PlanDamagedError),
    )
    if not isinstance(error, PlanMismatchError | PlanDamagedError):
        return error
    return type(error)(f"{error}; rebuild it with: {rebuild}")
