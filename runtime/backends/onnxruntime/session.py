"""A session of ONNX Runtime: of a file that nobody changed, on one provider, with the tensors its manifest tells."""

from functools import partial
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import FREE, GraphEntry
from e2e_deploy.errors import BundleError, E2EDeployError, UnavailableError, UsageError, failed
from e2e_deploy.runtime.backends.backend import not_as_described
from e2e_deploy.runtime.backends.onnxruntime.provider import GpuProvider
from e2e_deploy.system.interrupts import stoppable
from e2e_deploy.system.text import clean

_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def _cancel_load(options: Any) -> None:
    cancel = getattr(options, "set_load_cancellation_flag", None)
    if cancel is not None:  # 1.20 has none: there the load is left behind
        cancel(True)


def open_session(
    ort: Any,
    bundle: Bundle,
    graph: GraphEntry,
    options: Any,
    provider: GpuProvider | None,
) -> Any:
    """A session of ``graph.onnx``, which nobody changed, on the provider or else the CPU.

    Args:
        ort: the onnxruntime module.
        bundle: opened.
        graph: what its tensors must be, and the file.
        options: SessionOptions.
        provider: of a GPU; None for the CPU's.

    Raises:
        UnavailableError: too little memory, no kernels for the precision, or the provider does not start.
        UsageError: the provider has no such option.
        BundleError: ONNX Runtime refuses the graph, it has other tensors, or it was changed since it was checked.
    """
    providers: list[object] | None = ["CPUExecutionProvider"]
    if provider is not None and provider.devices:
        options.add_provider_for_devices(provider.devices, provider.options)
        providers = None  # they stand in the options, and the CPU is added to them
    elif provider is not None:
        providers = [(provider.name, provider.options), "CPUExecutionProvider"]
    path = str(bundle.file(graph.onnx))
    try:
        with (
            bundle.unchanged(graph.onnx, *bundle.weights_of(graph.onnx)),
            stoppable(partial(_cancel_load, options)),
        ):
            session = ort.InferenceSession(path, options, providers=providers)
    except E2EDeployError:
        raise
    except Exception as error:
        said = clean(str(error))
        if "provider option" in said.lower():
            raise UsageError(f"`provider_options` hold what this device has not: {said}") from error
        if "NOT_IMPLEMENTED" in said:
            raise UnavailableError(
                f"ONNX Runtime has no {bundle.manifest.precision} kernels for this device ({said}); "
                f'run {graph.onnx} with `backend="openvino"` on a CPU with units for it, as a plan on a GPU, or export '
                "another precision"
            ) from error
        raise failed(f"ONNX Runtime cannot load {graph.onnx}", error, BundleError) from error
    # No silent fallback: a session that cannot start or go on on the GPU must fail, not run on the CPU.
    session.disable_fallback()
    if provider is not None and provider.name not in session.get_providers():
        raise UnavailableError(
            f'onnxruntime could not start its {provider.title}; {provider.remedy}, or use `device="cpu"`'
        )
    _check_signature(session, graph)
    return session


def _check_signature(session: Any, graph: GraphEntry) -> None:
    """Refuse a session with other inputs or outputs than the manifest tells.

    Raises:
        BundleError: names what was expected.
    """
    for specs, found in (
        (graph.inputs, session.get_inputs()),
        (graph.outputs, session.get_outputs()),
    ):
        told = [(spec.name, _TYPES.get(spec.dtype), spec.shape) for spec in specs]
        # ONNX names an open side, a manifest says FREE.
        given = [
            (v.name, v.type, [side if isinstance(side, int) else FREE for side in v.shape])
            for v in found
        ]
        if given != told:
            raise not_as_described(graph.onnx, specs)
