import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.fit import Fit, best_size

sides = st.integers(16, 300)


@given(source=st.tuples(sides, sides), engine=st.tuples(sides, sides))
def test_frames_reach_the_engines_size_and_results_come_back(source, engine):
    try:
        fit = Fit(source, engine)
    except UsageError:
        assert max(source) / min(source) * max(engine) / min(engine) > 2
        return
    frame = np.full((*source, 3), 90, np.uint8)
    there = fit.to_engine(frame)
    assert (there.shape, there.dtype) == ((*engine, 3), np.uint8)
    assert (there == 90).all()
    back = fit.to_source(np.full(engine, 0.25, np.float32), "distance")
    assert (back.shape, back.dtype) == (source, np.float32)
    np.testing.assert_allclose(back, 0.25, atol=1e-6)
    height, width = fit.inner_hw
    assert height == engine[0] or width == engine[1]  # as large as it fits
    assert abs(height - width * source[0] / source[1]) <= 0.5 + 0.5 * source[0] / source[1]


def test_the_same_size_passes_through_untouched(rng):
    fit = Fit((40, 50), (40, 50))
    frame = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert fit.is_identity
    assert fit.to_engine(frame) is frame


def test_a_ramp_keeps_its_place(rng):
    """Down to a third and back: no shift by a pixel's part."""
    fit = Fit((90, 120), (30, 48))
    ramp = np.broadcast_to(np.linspace(10, 240, 120), (90, 120)).astype(np.uint8)
    there = fit.to_engine(np.stack([ramp] * 3, axis=2))
    assert (there[:, 40:] == there[:, 39:40]).all()  # filled from the edge
    back = fit.to_source(there[..., 0].astype(np.float32), "distance")
    np.testing.assert_allclose(back[:, 3:-3], ramp[:, 3:-3], atol=1.5)


def test_normals_come_back_unit_length(rng):
    vectors = rng.standard_normal((20, 20, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    back = Fit((50, 50), (20, 20)).to_source(vectors, "vectors")
    np.testing.assert_allclose(np.linalg.norm(back, axis=2), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "word"), [((1, 1), "16 px"), ((9000, 12000), "108 Mpx"), ((16, 4000), "too narrow")]
)
def test_sizes_that_cannot_be_fitted(size, word):
    with pytest.raises(UsageError, match=word):
        Fit(size, (96, 128))


def test_the_best_of_several_sizes():
    sizes = [(480, 640), (240, 320), (360, 640), (720, 1280)]
    assert best_size((240, 320), sizes) == (240, 320)
    assert best_size((1080, 1920), sizes) == (720, 1280)
    assert best_size((600, 800), sizes) == (480, 640)
    assert best_size((600, 800), [(64, 64)]) == (64, 64)
