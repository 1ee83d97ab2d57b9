"""AOTInductor in a process of its own: its compilers may crash, and hold gigabytes that an export should not.

The process makes the module again from the checkpoint, as a rebuild of a finished bundle has to: nothing large passes
between the two. It ends with whoever asked, and so do the compilers that it started.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.engines.tensorrt import Progress
from e2e_deploy.names import Precision, TaskName, VaePart
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.system.child import Child, Parent
from e2e_deploy.system.files import require_runnable
from e2e_deploy.system.text import clean

WAY_OUT = 'export with `engine="onnx"` to have a bundle without a package'
KILLED = (
    "most likely the machine ran out of memory: close other programs or use a smaller frame size"
)
STEPS = ("load", "specialise", "trace", "compile")
_LONGEST = 500
_TAKES_NO_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the module of a graph is made of its checkpoint, and what it is compiled for.

    Attributes:
        checkpoint: path of the folder.
        vae: path of the one in the place of its own; empty: its own.
        vae_part: the half it has the place of.
        resolution, pad: as the manifest has them.
        device: cuda or cpu.
        cpu_target: what the code for the CPU is compiled for; empty leaves it to torch.
        autotune: choose every kernel by trial.
        metadata: what the package says of itself.
    """

    checkpoint: str
    family: str
    task: TaskName
    settings: dict[str, str]
    vae: str = ""
    vae_part: VaePart = "both"
    precision: Precision
    specialised: bool
    resolution: int
    pad: int
    batch: int
    frame_hw: tuple[int, int]
    device: str
    cpu_target: str
    autotune: bool
    metadata: dict[str, str]


def compile_here(recipe: Recipe, file: Path, progress: Progress) -> None:
    """Compile in this process; arguments and errors as of ``compile_apart``."""
    # torch takes seconds to load, and the parent has no use for it here.
    from e2e_deploy.export.engines.inductor import compile_package, fit
    from e2e_deploy.export.graph.prepare import prepare
    from e2e_deploy.export.subject import plan_subjects
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.coders.swap import swap_coder
    from e2e_deploy.model.loading import load_model

    def say(step: str) -> None:
        progress(step, STEPS.index(step) + 1, len(STEPS))

    say("load")
    opened = open_checkpoint(
        recipe.checkpoint, family=recipe.family, task=recipe.task, settings=recipe.settings
    )
    if recipe.vae:
        opened = swap_coder(opened, recipe.vae, recipe.vae_part)
    model = load_model(opened)
    (subject,) = plan_subjects(
        [recipe.frame_hw],
        model=model,
        resolution=recipe.resolution,
        pad=recipe.pad,
        batch=recipe.batch,
    )
    say("specialise")
    body, _ = prepare(
        model,
        precision=recipe.precision,
        specialised=recipe.specialised,
        sizes_hw=[subject.plan.padded_hw],
    )
    del model
    # On the device before it is fitted: what is no parameter, such as the timestep, is made where the parameters are.
    module = subject.module(fit(body.to(recipe.device))).to(recipe.device)
    say("trace")
    compile_package(
        module,
        subject.example().to(recipe.device),
        file,
        cpu_target=recipe.cpu_target,
        metadata=recipe.metadata,
        autotune=recipe.autotune,
        on_compile=lambda: say("compile"),
    )


def compile_apart(recipe: Recipe, plan: Path, progress: Progress | None) -> None:
    """Write the package of a graph to ``plan``; what ``progress`` raises, and Ctrl-C, end the process and are raised.

    Args:
        recipe: how the module is made, and what it is compiled for.
        plan: the file.
        progress: called in this process.

    Raises:
        BuildError: AOTInductor gives up, or the process crashed.
        E2EDeployError: the checkpoint cannot be read, or the temporary folder cannot hold what is compiled, or runs
            no code.
        OSError: the disk is full.
    """
    with (
        # A compiler that ends a moment later may still write into it.
        tempfile.TemporaryDirectory(prefix="e2e-deploy-", ignore_cleanup_errors=True) as folder,
        Child(__name__, folder, own_group=True) as child,
    ):
        # Inductor tries vectors with code that it loads, and would go without them.
        require_runnable(Path(folder))
        child.tell(recipe=asdict(recipe))
        for event in child.events():
            if "progress" in event and progress is not None:
                progress(*event["progress"])
            elif "built" in event:
                shutil.move(event["built"], plan)
                return
        crash = child.crash()
    words = f": {clean(' '.join(crash.said[-3:]), _LONGEST)}" if crash.said else ""
    remedy = KILLED if crash.was_killed else WAY_OUT
    raise BuildError(f"AOTInductor crashed with {crash.how}{words}; {remedy}")


def _in_words(error: Exception) -> str:
    """The last lines of what inductor says, which are hundreds, with the command of the compiler and its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()] or lines
    return clean("; ".join(dict.fromkeys(wrong[:3])) or type(error).__name__, _LONGEST)


def _explained(error: Exception) -> E2EDeployError:
    """What went wrong while it compiled, in a sentence: a folder that takes no files is none of the graph's."""
    if isinstance(error, OSError) and error.errno in _TAKES_NO_FILES:
        return E2EDeployError(
            f"AOTInductor cannot write into {tempfile.gettempdir()}: {error.strerror}; free some space there, or set "
            "TMPDIR to another folder"
        )
    return BuildError(f"AOTInductor cannot compile the graph: {_in_words(error)}; {WAY_OUT}")


def _end_with_parent(folder: str) -> None:
    """Wait until whoever asked has gone, then end with everything that was started here."""
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _prepare_environment(folder: str, features: str) -> None:
    """Nothing is left elsewhere, and loops have vectors that every CPU of the target knows."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": f"{folder}/triton"}
    # How inductor is told; the best vectors of this CPU are not those of the target, nor has it a name for NEON's.
    if "avx2" in features.split():
        os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
    elif "sve" in features.split():
        os.environ["ATEN_CPU_CAPABILITY"] = "default"


def main() -> None:
    """The child: the temporary folder as argument, then one recipe."""
    parent, folder = Parent(), sys.argv[1]
    values: dict[str, Any] = next(parent.requests())["recipe"]
    recipe = Recipe(**values | {"frame_hw": tuple(values["frame_hw"])})
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    from e2e_deploy.nvidia.hardware import cpu_features

    _prepare_environment(folder, cpu_features())
    file = Path(folder) / "frame.pt2"
    with parent.told_of_errors():
        try:
            compile_here(recipe, file, lambda *at: parent.tell(progress=list(at)))
        except E2EDeployError:
            raise
        except MemoryError:
            raise BuildError(f"AOTInductor ran out of memory; {KILLED}") from None
        except Exception as error:  # inductor's, the compiler's and Triton's share no base class
            raise _explained(error) from error
        parent.tell(built=str(file))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)  # what was compiled with may fail when it is unloaded


if __name__ == "__main__":
    main()
