"""What ends a run from outside, said in one sentence: memory and processes that died, a connection that broke.

Knows: how torch words these. Does not know: files, which name themselves where they are written.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.train.config.settings import TrainConfig

_LESS_MEMORY = (
    "use a smaller optim.micro_batch (the effective batch stays the same) or data.size, or turn "
    "model.gradient_checkpointing on, or give a smaller speed.images_per_pass; "
    "[distil] has a batch and a size of its own"
)
_SENTENCES = {
    r"DataLoader worker \(pid|shared memory object|^(Connection\w+|EOF|BrokenPipe)Error": (
        "a process that reads data died (out of memory, or /dev/shm is too small?): use fewer run.workers ({workers} "
        "now) and run it again to go on from the newest checkpoint in {out}"
    ),
    r"[Gg]loo[/ ]|Dist(Network|Store|Backend)Error": (
        "another process of this run is gone or cannot be reached, and what it said tells why; start all of them "
        "again to go on from the newest checkpoint in {out} ({words})"
    ),
    r"(InductorError|BackendCompilerFailed|CppCompileError|TorchRuntimeError):": (
        "torch could not compile the network: set speed.compile = false and run it again; the steps are the same"
    ),
    r"out of memory": f"the GPU's memory is too small: {_LESS_MEMORY}",
    r"can't allocate memory|MemoryError": f"the memory is too small: {_LESS_MEMORY}",
}
"""What torch and Python say to what to do."""


@contextmanager
def failures_said(config: TrainConfig) -> Iterator[None]:
    """Turn such failures inside the block into E2EDeployError."""
    try:
        yield
    except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
        for pattern, sentence in _SENTENCES.items():
            if re.search(pattern, f"{type(error).__name__}: {error}"):
                run, words = config.run, _words(error)
                raise E2EDeployError(
                    sentence.format(workers=run.workers, out=run.out, words=words)
                ) from error
        raise


def _words(error: BaseException) -> str:
    """The first line of ``error``, without the place in torch's sources where it was made."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"\[?/\S+\.(cc|cpp|h):\d+\]?,? ?", "", line).strip() or type(error).__name__
