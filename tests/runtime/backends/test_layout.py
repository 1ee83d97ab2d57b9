"""Where several results of one call lie."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.bundle.manifest import GraphEntry, TensorSpec
from e2e_deploy.kinds import KINDS
from e2e_deploy.names import RESULT_KINDS
from e2e_deploy.runtime.backends.dlpack import CPU, RawArray
from e2e_deploy.runtime.backends.layout import ALIGNMENT, Layout, by_kind, changed

GRAPH = GraphEntry(
    frame_size=[24, 32],
    processing_size=[24, 32],
    onnx="model.onnx",
    reference="reference.npz",
    inputs=[TensorSpec(name="frame", dtype="uint8", shape=[1, 24, 32, 3], meaning="")],
    outputs=[],
)


def graph_of(hw, batch):
    taken = replace(GRAPH.inputs[0], shape=[batch, *hw, 3])
    return replace(GRAPH, frame_size=list(hw), inputs=[taken])


@given(
    names=st.lists(st.sampled_from(RESULT_KINDS), min_size=1, unique=True),
    hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch=st.integers(1, 3),
)
def test_results_lie_one_after_the_other_and_none_over_another(names, hw, batch):
    kinds = [KINDS[name] for name in names]
    layout = Layout.of(graph_of(hw, batch), kinds)
    block = np.zeros(layout.block_shape(4), np.float32)
    assert block.nbytes == layout.num_bytes
    parts = layout.apart(block, 4)
    assert list(parts) == [kind.output for kind in kinds]
    for number, (kind, part) in enumerate(zip(kinds, parts.values(), strict=True), 1):
        assert part.shape == (batch, *kind.result_shape(*hw))
        assert (part.ctypes.data - block.ctypes.data) % 256 == 0  # what CUDA aligns to
        part += number  # a number that another one wrote too would be a sum
    for number, part in enumerate(parts.values(), 1):
        assert (part == number).all()
    used = sum(part.nbytes for part in parts.values())
    assert layout.num_bytes < used + ALIGNMENT * len(kinds)


def test_one_result_is_its_own_block():
    layout = Layout.of(graph_of((24, 32), 2), [KINDS["normals"]])
    assert layout.num_bytes == 2 * 24 * 32 * 3 * 4
    assert layout.block_shape(4) == (2, 24, 32, 3)
    assert Layout.of(GRAPH, [KINDS["depth"]]).block_shape(3) == (24, 32)
    made = np.zeros((1, 24, 32), np.float32)
    assert Layout.of(GRAPH, [KINDS["depth"]]).together([made], 3, None).base is made


@pytest.mark.parametrize("ndim", [3, 4])
def test_raw_memory_is_taken_apart_as_the_hosts(rng, ndim):
    layout = Layout.of(GRAPH, [KINDS["depth"], KINDS["normals"]])
    block = rng.random(layout.block_shape(ndim)).astype(np.float32)
    raw = RawArray(block.ctypes.data, block.shape, "float32", (CPU, 0), owner=block)
    for part, there in zip(
        layout.apart(block, ndim).values(), layout.apart(raw, ndim).values(), strict=True
    ):
        assert there.owner is raw
        np.testing.assert_array_equal(there.host(), part)


@pytest.mark.parametrize("given_out", [False, True])
def test_what_a_library_computed_elsewhere_comes_together(rng, given_out):
    layout = Layout.of(GRAPH, [KINDS["depth"], KINDS["normals"]])
    made = [rng.random((1, 24, 32)), rng.random((1, 24, 32, 3))]
    made = [each.astype(np.float32) for each in made]
    out = np.empty(layout.block_shape(3), np.float32) if given_out else None
    block = layout.together(made, 3, out)
    assert out is None or block is out
    for part, each in zip(layout.apart(block, 3).values(), made, strict=True):
        np.testing.assert_array_equal(part, each[0])


def test_one_array_or_a_mapping_is_the_same_to_those_who_go_through_it(rng):
    depth, normals = KINDS["depth"], KINDS["normals"]
    a, b = rng.random((2, 3)), rng.random((2, 3, 3))
    assert by_kind([depth], a) == [(depth, a)]
    assert [kind for kind, _ in by_kind([depth, normals], {"depth": a, "normals": b})] == [
        depth,
        normals,
    ]
    twice = changed([depth, normals], {"depth": a, "normals": b}, lambda kind, each: 2 * each)
    np.testing.assert_array_equal(twice["normals"], 2 * b)
    assert changed([depth], a, lambda kind, each: kind.name) == "depth"
