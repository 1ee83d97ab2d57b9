"""The curves against values that the standards print."""

import itertools

import numpy as np
import pytest

from e2e_deploy.runtime.sources.video.tone_mapping import (
    BT2020_TO_BT709,
    HLG,
    NODES,
    PQ,
    SDR,
    hlg_to_nits,
    nits_to_pq,
    pq_to_nits,
    roll_off,
    to_sdr,
    write_cube,
)


def test_pq():
    """ITU-R BT.2408: 203 cd/m2 is 58 % PQ; 100, 1000, 4000 and 10000 are 50.8, 75.2, 90.3 and 100 %."""
    nits = np.array([100.0, 203.0, 1000.0, 4000.0, 10000.0])
    np.testing.assert_allclose(nits_to_pq(nits), [0.508, 0.581, 0.752, 0.903, 1], atol=5e-4)
    signal = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(nits_to_pq(pq_to_nits(signal)), signal, atol=1e-6)


def test_hlg():
    """ITU-R BT.2408, table 1: 75 % HLG is 203 cd/m2, reference white, on a display of 1000; 38 % grey card is 26."""
    grey = np.array([0.0, 0.38, 0.75, 1.0])
    nits = hlg_to_nits(np.repeat(grey[:, None], 3, axis=1))
    np.testing.assert_allclose(nits[:, 0], [0, 26, 203, 1000], rtol=0.02)
    np.testing.assert_array_equal(nits[:, 0], nits[:, 2])


@pytest.mark.parametrize("peak_nits", [300.0, 1000.0, 4000.0, 10000.0])
def test_roll_off(peak_nits):
    """ITU-R BT.2390, 5.4.1: unchanged below the knee, smooth and growing above it, the peak at the target."""
    nits = np.linspace(0, peak_nits, 20_001)
    out = roll_off(nits, peak_nits)
    highest = nits_to_pq(np.array(203.0)) / nits_to_pq(np.array(peak_nits))
    knee_nits = pq_to_nits((1.5 * highest - 0.5) * nits_to_pq(np.array(peak_nits)))
    below = nits < knee_nits
    np.testing.assert_allclose(out[below], nits[below], rtol=1e-6)
    assert (np.diff(out) >= -1e-9).all()
    assert np.diff(out).max() <= np.diff(nits).max() * 1.001
    assert out[-1] == pytest.approx(203, rel=1e-6)


def test_what_sdr_can_show_is_not_rolled_off():
    nits = np.linspace(0, 203, 11)
    np.testing.assert_array_equal(roll_off(nits, 203.0), nits)


def test_primaries():
    """White stays white; BT.709's red in BT.2020 coordinates (ITU-R BT.2087) comes back."""
    np.testing.assert_allclose(BT2020_TO_BT709.sum(axis=1), 1, atol=2e-6)
    red = np.array([0.6274, 0.0691, 0.0164])
    np.testing.assert_allclose(BT2020_TO_BT709 @ red, [1, 0, 0], atol=2e-4)


@pytest.mark.parametrize("kind", [PQ, HLG, SDR])
def test_greys_stay_grey_and_grow(kind):
    grey = np.repeat(np.linspace(0, 1, 101)[:, None], 3, axis=1)
    out = to_sdr(grey, kind, 1000.0)
    assert out.min() == pytest.approx(0, abs=1e-9)
    assert out.max() <= 1
    assert np.ptp(out, axis=1).max() < 1e-4
    assert (np.diff(out[:, 0]) >= -1e-12).all()
    if kind == SDR:
        np.testing.assert_allclose(out, grey, atol=1e-5)


def test_primaries_of_bt709_are_left_alone():
    colour = nits_to_pq(np.array([60.0, 20.0, 5.0]))
    linear = np.array([60.0, 20.0, 5.0]) / 203
    wanted = 1.055 * linear ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(to_sdr(colour, PQ, 1000.0, wide=False), wanted, atol=1e-6)


def test_the_table_is_the_function(tmp_path):
    write_cube(tmp_path / "a.cube", HLG, 0.0)
    lines = (tmp_path / "a.cube").read_text().splitlines()
    assert lines[0] == f"LUT_3D_SIZE {NODES}"
    table = np.loadtxt(lines[1:]).reshape(NODES, NODES, NODES, 3)
    for blue, green, red in itertools.product([0, 7, 20, 32], repeat=3):
        wanted = to_sdr(np.array([red, green, blue]) / (NODES - 1), HLG, 0.0)
        np.testing.assert_allclose(table[blue, green, red], wanted, atol=1e-6)
