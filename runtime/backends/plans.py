"""The plan of a bundle that fits this machine: chosen by what the manifest says, read as the bytes it vouches for.

A plan is native code for one kind of device, so nothing of it is looked at, let alone run, before all of this holds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.bundle.plan_files import graph_digest, rebuild_call, require_private
from e2e_deploy.errors import PlanDamagedError, PlanMismatchError, UnavailableError
from e2e_deploy.names import PLAN_TITLES, PlanKind
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.trt_api import PORTABLE


@dataclass(frozen=True)
class Place:
    """What a plan may be for, of this machine.

    Attributes:
        kind: GPU or CPU.
        name: the device's.
        targets: what it runs, the closest first.
        cuda: (major, minor) of CUDA that its driver supports; None of a CPU.
    """

    kind: str
    name: str
    targets: tuple[str, ...]
    cuda: tuple[int, int] | None = None

    def runs(self, entry: PlanEntry) -> bool:
        """Whether the plan's target is this device's."""
        return entry.target in self.targets and entry.gpu in ("", self.name)


def place_of(gpu: Gpu) -> Place:
    """A GPU as a place for plans."""
    portable = (PORTABLE,) if int(re.sub(r"\D", "", gpu.target) or 0) >= 80 else ()
    return Place("GPU", gpu.name, (gpu.target, *portable), gpu.cuda)


def choose_plan(
    bundle: Bundle, graph: GraphEntry, library: PlanKind, version: str, place: Place
) -> PlanEntry:
    """The plan of ``graph`` that fits here; the closest target first.

    Raises:
        PlanMismatchError: there is none; says what the bundle holds, what is here, and the command that builds one.
        UnavailableError: the driver is too old for it.
    """
    held = [
        entry
        for entry in bundle.manifest.plans
        if entry.backend == library and entry.frame_size == graph.frame_size
    ]
    call, title = rebuild_call(bundle.root, library), PLAN_TITLES[library]
    if not held:
        raise PlanMismatchError(
            f"the bundle {bundle.root} has no {title} plan for {graph.frame_hw[0]}x{graph.frame_hw[1]}; "
            f"build one with: {call}"
        )
    fitting = [entry for entry in held if place.runs(entry)]
    if not fitting:
        built = ", ".join(dict.fromkeys(f"{e.target} {e.gpu}".strip() for e in held))
        here = place.targets[0] if place.targets else "none of these"
        raise PlanMismatchError(
            f"the bundle's {title} plans are for {built}, and this {place.kind} is {here} ({place.name}); "
            f"rebuild with: {call}"
        )
    same = [entry for entry in fitting if entry.version == version]
    if not same:
        built = ", ".join(dict.fromkeys(e.version for e in fitting))
        raise PlanMismatchError(
            f"the bundle's plan was built by {title} {built}, and {version} is installed here; "
            f"rebuild with: {call}"
        )
    entry = min(same, key=lambda e: place.targets.index(e.target))
    if place.cuda is not None and entry.cuda > place.cuda[0]:
        raise UnavailableError(
            f"the plan needs a driver for CUDA {entry.cuda}, and the one here supports CUDA "
            f"{place.cuda[0]}.{place.cuda[1]}: install a newer NVIDIA driver"
        )
    return entry


def read_plan(bundle: Bundle, entry: PlanEntry) -> bytes:
    """The plan's bytes, the very ones whose hash the manifest lists.

    Raises:
        BundleError: they differ, or others can write the file.
    """
    bundle.file(entry.file)
    require_private(bundle.root, entry.file)
    return bundle.read(entry.file, hash_again=True)


Tensors = Mapping[tuple[str, bool], tuple[str, tuple[int, ...]]]
"""(dtype, shape) by name and whether it is an input."""


def require_built_from(
    bundle: Bundle, graph: GraphEntry, entry: PlanEntry, digest: str, tensors: Tensors
) -> None:
    """Refuse a plan that was built from another graph, or that has other tensors.

    Args:
        bundle: opened.
        graph: what it must have been built from.
        entry: the manifest's entry of the plan.
        digest: graph_digest that the plan itself names.
        tensors: that the plan itself has.

    Raises:
        PlanDamagedError: says what it is and what it should be.
    """
    files, rebuild = bundle.manifest.files, rebuild_call(bundle.root, entry.backend)
    wanted = graph_digest(bundle.root, graph.onnx, lambda name: files[name].sha256)
    if digest != wanted:
        raise PlanDamagedError(
            f"{entry.file} was built from another graph than {graph.onnx} of this bundle "
            f"({digest[:12] or 'none named'}, not {wanted[:12]}); rebuild it with: {rebuild}"
        )
    listed = {
        (spec.name, is_input): (spec.dtype, tuple(spec.shape))
        for specs, is_input in ((graph.inputs, True), (graph.outputs, False))
        for spec in specs
    }
    if tensors != listed:
        raise PlanDamagedError(
            f"{entry.file} has the tensors {sorted(tensors.items())}, the manifest lists {sorted(listed.items())}; "
            f"rebuild it with: {rebuild}"
        )
