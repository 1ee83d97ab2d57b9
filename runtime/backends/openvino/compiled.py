"""A graph of a bundle compiled for a device: from the cache, else read, checked and compiled."""

from collections.abc import Mapping
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import FREE, GraphEntry
from e2e_deploy.bundle.plan_files import graph_digest
from e2e_deploy.errors import BundleError, E2EDeployError, UsageError, failed
from e2e_deploy.runtime.backends.backend import not_as_described
from e2e_deploy.runtime.backends.openvino.cache import CompiledCache
from e2e_deploy.runtime.backends.openvino.devices import CPU, said
from e2e_deploy.runtime.backends.openvino.memory import needed_bytes, require_memory
from e2e_deploy.runtime.backends.openvino.norms import split_norms
from e2e_deploy.system.cache_folder import cache_key

THREADS = "INFERENCE_NUM_THREADS"

LARGE_BYTES = 2**28
"""Weights above this are compiled anew on a CPU each time: a copy of them on the disk saves less than it costs."""


def compile_graph(
    core: Any, bundle: Bundle, graph: GraphEntry, device: str, settings: Mapping[str, Any]
) -> Any:
    """The CompiledModel of a graph that nobody changed.

    Args:
        core: OpenVINO's.
        bundle: opened.
        graph: one of its graphs.
        device: OpenVINO's name of it.
        settings: properties of the compilation.

    Raises:
        UnavailableError: too little memory.
        UsageError: OpenVINO has no such property, or does not take the value.
        BundleError: OpenVINO refuses the graph, or it was changed since the bundle was opened.
    """
    files = bundle.manifest.files
    weights = [graph.onnx, *bundle.weights_of(graph.onnx)]
    is_kept = device != CPU or sum(files[name].bytes for name in weights) < LARGE_BYTES
    cache = CompiledCache() if is_kept else None
    # In bf16 the means and variances of the channels would be rounded too, which doubles the error.
    splits_norms = device == CPU and settings.get("INFERENCE_PRECISION_HINT") == "f32"
    key = cache_key(
        {
            "graph": graph_digest(bundle.root, graph.onnx, lambda name: files[name].sha256),
            "norms": "by channel" if splits_norms else "as they are",
            "device": [device, *_identity_of(core, device)],
            # Threads are a matter of the load: the same compilation does for any number of them.
            "settings": {k: str(v) for k, v in settings.items() if k != THREADS},
        }
    )
    stored = cache.fetch(key) if cache else None
    try:
        if stored is not None:
            require_memory(stored.needed, graph.onnx)
            return core.import_model(stored.blob, device, dict(settings))
        # Not mapped: what is read here stays as it is, whatever happens to the file.
        core.set_property({"ENABLE_MMAP": False})
        with bundle.unchanged(*weights):
            model = core.read_model(str(bundle.file(graph.onnx)))
        _check_signature(model, graph)
        needed = needed_bytes(model, graph.onnx, _shape(graph))
        require_memory(needed, graph.onnx)
        if splits_norms:
            split_norms(model)
        compiled = core.compile_model(model, device, dict(settings))
        if cache:
            cache.store(key, needed, compiled.export_model)
        return compiled
    except E2EDeployError:
        raise
    except Exception as error:
        short = said(error)
        if "Unsupported property" in str(error) or "property key" in str(error):
            raise UsageError(
                f"`provider_options` hold what this device has not: {short}"
            ) from error
        raise failed(f"OpenVINO cannot load {graph.onnx}", short, BundleError) from error


def _identity_of(core: Any, device: str) -> list[str]:
    """What decides whether another machine's or version's compilation would do here."""
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    version = core.get_versions(device)
    return [
        *(str(core.get_property(device, name)) for name in names),
        *sorted(str(each.build_number) for each in version.values()),
    ]


def _shape(graph: GraphEntry) -> list[int]:
    takes = graph.inputs[0].shape
    return [*takes[:-2], *graph.frame_hw] if FREE in takes else takes


_TYPES = {"uint8": "u8", "float32": "f32"}


def _check_signature(model: Any, graph: GraphEntry) -> None:
    """Refuse a graph with other inputs or outputs than the manifest tells.

    Raises:
        BundleError: names what was expected.
    """
    for specs, found in ((graph.inputs, model.inputs), (graph.outputs, model.outputs)):
        told = [(spec.name, _TYPES.get(spec.dtype), spec.shape) for spec in specs]
        given = [
            (
                value.get_any_name(),
                value.get_element_type().to_string(),
                [FREE if side.is_dynamic else side.get_length() for side in value.partial_shape],
            )
            for value in found
        ]
        if given != told:
            raise not_as_described(graph.onnx, specs)
