"""How much memory an ONNX Runtime session may take: a graph that asks for more fails, and nothing is killed for it.

A bundle is data from somewhere, and a graph of a few hundred bytes can ask for terabytes. Results that depend on no
frame would be computed while a graph is loaded; those of a frame lie in ONNX Runtime's arena.
"""

import contextlib
from typing import Any

from e2e_deploy.nvidia.hardware import available_memory_bytes

LARGEST_FOLDED_BYTES = 2**18
"""Largest result ONNX Runtime computes while it loads. Ours are folded at export: what is left are shapes and, in
graphs that were not specialised, embeddings of the time of a few KiB."""


def bound_memory(ort: Any, options: Any) -> None:
    """Let the session made with ``options`` take no more than is free now, for results on the CPU."""
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(LARGEST_FOLDED_BYTES)
    )
    free_bytes = available_memory_bytes()
    if free_bytes is not None and _share_arena(ort, max(1, free_bytes)):
        options.add_session_config_entry("session.use_env_allocators", "1")


def return_memory(ort: Any) -> None:
    """Give back what a closed session held: its arena is the process's until another one takes that place."""
    _share_arena(ort, 1)


def _share_arena(ort: Any, max_bytes: int) -> bool:
    """Make a new arena the one of sessions to come; those there are keep theirs. Whether this ONNX Runtime can."""
    # -1: as of ONNX Runtime's own arenas. A limit of 0 would be none.
    names = ("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk")
    arena = ort.OrtArenaCfg({"max_mem": max_bytes} | dict.fromkeys(names, -1))
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    with contextlib.suppress(Exception):  # older ones refuse a second arena
        ort.create_and_register_allocator(memory, arena)
        return True
    return False
