"""Where the milliseconds of our model go on a GPU, by kernel and by node, in torch and in ONNX Runtime; what mends it.

    python -m benchmarks.gpu.profiling --out DIR --what torch|tuned|norms|onnxruntime|product [--seconds N] [--small]

torch: kernels of the compiled stages. tuned: one stage compiled in several ways. norms: a group norm with SiLU of a
channels-last map, by inductor and by hand, at the decoder's sizes. onnxruntime: the fp16 bundle as it is exported, its
graph written in other ways, and the provider's options, each timed and compared. product: that bundle as the runtime
runs it. Every result is written as soon as it is there. --small is the whole way with e2e-tiny, on a CPU too.

tuned, norms and product were never run on a GPU. The first things to ask one, with what they may take:

    python -m benchmarks.gpu.profiling --out DIR --what product --seconds 100
    python -m benchmarks.gpu.profiling --out DIR --what norms --seconds 60
    python -m benchmarks.gpu.profiling --out DIR --what tuned --stage decoder --seconds 240
    python -m benchmarks.gpu.profiling --out DIR --what onnxruntime --seconds 130
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.contenders.models import STAGES
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.profiling.kernels import release
from benchmarks.gpu.profiling.of_backend import product
from benchmarks.gpu.profiling.of_onnxruntime import onnx_runtime
from benchmarks.gpu.profiling.of_torch import WAYS, norms, torch_stages, tuned
from benchmarks.gpu.results import writer
from benchmarks.gpu.timing import find_device, in_words

QUESTIONS = ("torch", "tuned", "norms", "onnxruntime", "product")


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--what", choices=QUESTIONS, nargs="+", required=True)
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument("--seconds", type=float, default=600.0, help="nothing slow after this time")
    parser.add_argument("--stage", choices=STAGES, default="decoder", help="of tuned")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="of tuned; all if left out")
    parser.add_argument("--only", nargs="+", help="variants of onnxruntime; all if left out")
    parser.add_argument(
        "--placed", nargs="*", default=["as exported"], help="variants whose nodes are listed"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="checkpoints"
    )
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    return parser


def main() -> None:
    """Answer the questions that were asked; exit 1 if one broke."""
    given = options().parse_args()
    device, until = find_device(), time.monotonic() + given.seconds
    write = writer(given.out, device, given.commit, small=given.small)
    job = Job(device, given.small, given.work, until, write)
    questions: dict[str, Callable[[], None]] = {
        "torch": lambda: torch_stages(job),
        "tuned": lambda: tuned(job, given.stage, given.ways),
        "norms": lambda: norms(job),
        "onnxruntime": lambda: onnx_runtime(job, given.only, given.placed),
        "product": lambda: product(job),
    }
    broken = False
    for name in given.what:
        try:
            questions[name]()
        except Exception as error:  # the next question goes on
            job.say(f"{name}: {in_words(error)}")
            broken = True
        release(device)
    print("\n".join(job.lines))
    sys.exit(broken)


if __name__ == "__main__":
    main()
