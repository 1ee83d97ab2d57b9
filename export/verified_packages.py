"""Whether AOTInductor's packages give what the reference says: run in a process of their own before a bundle is there.

A full-size package once ended the process that loaded it, and an export must survive that.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import Manifest, VerificationEntry
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.export.verified import judged
from e2e_deploy.names import EngineChoice
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.checks.verify import compare
from e2e_deploy.system.child import Child, Parent
from e2e_deploy.system.text import clean

WAY_OUT = '`engine="onnx"` writes the bundle without it'


def verified_packages(
    folder: Path, manifest: Manifest, engine: EngineChoice, stages: Stages
) -> tuple[Manifest, list[str]]:
    """The manifest with the verification of its packages, and notes.

    Args:
        folder: of the bundle that is being written, with this manifest.
        manifest: its plans are there.
        engine: with ``auto`` a package that fails is taken out again, and a note says why.
        stages: says what is being done.

    Raises:
        ParityError: a named package is outside its limit.
        BuildError: it ends the process that runs it.
        E2EDeployError: it does not load or run.
    """
    packages = [plan for plan in manifest.plans if plan.backend == "inductor"]
    if not packages:
        return manifest, []
    try:
        where = packages[0].gpu or f"CPU, {packages[0].target}"
        with stages(f"verify with AOTInductor ({where})"):
            entries = verify_apart(folder, "cuda" if packages[0].gpu else "cpu")
    except E2EDeployError as error:
        if engine != "auto":
            raise
        for plan in packages:
            (folder / plan.file).unlink()
        kept = [plan for plan in manifest.plans if plan not in packages]
        return replace(manifest, plans=kept), [f"no AOTInductor plan: {error}"]
    return replace(manifest, verification=[*manifest.verification, *entries]), []


def verify_apart(folder: Path, device: str) -> list[VerificationEntry]:
    """The verdicts of a process of its own on every package of the bundle in ``folder``.

    Args:
        folder: of the bundle.
        device: cuda or cpu, as the packages are for.

    Raises:
        ParityError: one is outside its limit.
        BuildError: one ends the process that runs it.
        E2EDeployError: one does not load or run.
    """
    with Child(__name__, str(folder.absolute()), device) as child:
        for event in child.events():
            return [VerificationEntry(**entry) for entry in event["entries"]]
        crash = child.crash()
    words = f": {clean(' '.join(crash.said[-3:]))}" if crash.said else ""
    raise BuildError(
        f"AOTInductor's package ends the process that runs it with {crash.how}{words}; {WAY_OUT}"
    )


def main() -> None:
    """The child: folder and device as arguments."""
    parent, (_, folder, device) = Parent(), sys.argv
    with parent.told_of_errors():
        verdicts = compare(open_bundle(Path(folder), hash_check=False), "inductor", device)
        parent.tell(entries=[asdict(entry) for entry in judged(verdicts, accepted=False)])


if __name__ == "__main__":
    main()
