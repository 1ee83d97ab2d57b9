"""12-bit codes of depth and their statistics, against numbers of lerobot's own and NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from e2e_deploy.runtime.sinks.lerobot.depth_codes import TOP, CodeStatistics, DepthCodes

# quantize_depth and dequantize_depth of lerobot 0.6.1
METRES = [0, 0.005, 0.01, 0.5, 1, 1.6004, 3.3, 9.99, 10, 20]
CODES = {
    10.0: [0, 0, 0, 397, 755, 1136, 2010, 4093, 4095, 4095],
    40.0: [0, 0, 0, 213, 404, 608, 1076, 2190, 2191, 3093],
}
READ = [0, 1, 200, 1000, 2000, 3000, 4000, 4095]
METRES_READ = {
    10.0: [0.01, 0.0111544, 0.2486925, 1.3772030, 3.2769523, 5.9166851, 9.5846367, 10.0],
    40.0: [0.01, 0.0121582, 0.4691563, 2.9902649, 8.5010090, 18.6908112, 37.5325431, 40.0],
}


@pytest.mark.parametrize("most_m", CODES)
def test_codes_and_metres_are_those_of_lerobot(most_m):
    codes = DepthCodes(most_m)
    np.testing.assert_array_equal(codes.store(np.array([METRES], np.float32))[0], CODES[most_m])
    np.testing.assert_allclose(codes.metres(READ), METRES_READ[most_m], rtol=1e-4)


def test_what_is_unknown_is_the_least_and_what_is_beyond_is_the_most():
    found = DepthCodes().store(np.array([[np.nan, np.inf, -np.inf, -3, 1e30]], np.float32))
    assert (found.dtype, found.tolist()) == (np.uint16, [[0, TOP, 0, 0, TOP]])


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 300, width=32)),
    st.floats(1, 1000),
)
def test_read_back_every_depth_is_within_half_a_code(metres, most_m):
    codes = DepthCodes(most_m)
    stored = codes.store(metres)
    inside = metres.astype(np.float64).clip(0.01, most_m)
    below, above = (codes.metres(np.clip(stored.astype(int) + d, 0, TOP)) for d in (-1, 1))
    step = np.maximum(codes.metres(stored) - below, above - codes.metres(stored))
    assert (np.abs(codes.metres(stored) - inside) <= 0.51 * step + 1e-4).all()


@given(
    arrays(np.uint16, array_shapes(min_dims=3, max_dims=3), elements=st.integers(0, TOP)),
    st.floats(1, 100),
)
def test_statistics_are_numpys_of_the_metres_that_are_read(frames, most_m):
    codes = DepthCodes(most_m)
    statistics = CodeStatistics(codes)
    for frame in frames:
        statistics.add(frame)
    told, metres = statistics.told(), codes.metres(frames)
    expected = {
        "min": metres.min(),
        "max": metres.max(),
        "mean": metres.mean(),
        "std": metres.std(),
    }
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        name = f"q{round(100 * share):02d}"
        expected[name] = np.quantile(metres, share, method="inverted_cdf")
    assert told.pop("count") == [len(frames)]
    assert told.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(told[name], [[[value]]], rtol=1e-6, atol=1e-6, err_msg=name)
