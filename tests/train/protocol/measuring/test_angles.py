from dataclasses import asdict

import numpy as np
import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.metrics import NormalsAccumulator
from e2e_deploy.train.normals_axes import AxesComparison
from e2e_deploy.train.protocol.measuring.angles import STEPS_PER_DEG, PooledAngles


def images(count=5, seed=0):
    draw = np.random.default_rng(seed)
    for size in range(count):
        shape = (6 + size, 9)
        yield (
            draw.normal(size=(*shape, 3)),
            draw.normal(size=(*shape, 3)),
            draw.random(shape) < 0.6,
        )


def test_pooling_is_that_of_every_pixel_in_memory():
    pooled, exact, axes = PooledAngles(), NormalsAccumulator(), AxesComparison()
    for image in images():
        single = NormalsAccumulator()
        single.add(*image)
        of_image = pooled.add(*image)
        for name, value in asdict(single.result()).items():
            assert asdict(of_image)[name] == pytest.approx(value, abs=0.51 / STEPS_PER_DEG)
        exact.add(*image)
        axes.add(*image)
    expected, found = asdict(exact.result()), asdict(pooled.result())
    for name in expected:
        limit = 0.51 / STEPS_PER_DEG if name == "median_deg" else 1e-5
        assert found[name] == pytest.approx(expected[name], abs=limit)
    assert found["num_valid"] == expected["num_valid"]
    assert pooled.axes() == axes.result()


def test_the_median_of_an_even_count_is_the_mean_of_the_middles():
    truth = np.tile([0.0, 0.0, 1.0], (1, 4, 1))
    angles = np.radians([10, 20, 60, 90])
    tilted = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)[None]
    pooled = PooledAngles()
    assert pooled.add(tilted, truth, np.ones((1, 4), bool)).median_deg == pytest.approx(40)
    assert pooled.add(tilted[:, :3], truth[:, :3], np.ones((1, 3), bool)).median_deg == 20
    assert pooled.result().mean_deg == pytest.approx((10 + 20 + 60 + 90 + 10 + 20 + 60) / 7)


def test_opposite_vectors_are_180_degrees(tmp_path):
    up, all_of_it = np.tile([0.0, 0.0, 1.0], (2, 2, 1)), np.ones((2, 2), bool)
    pooled = PooledAngles()
    pooled.add(-up, up, all_of_it)
    assert pooled.result().median_deg == 180


def test_put_down_and_picked_up_it_is_the_same(tmp_path):
    whole, first = PooledAngles(), PooledAngles()
    for index, image in enumerate(images()):
        whole.add(*image)
        if index < 2:
            first.add(*image)
    first.save(tmp_path / "angles.npz")
    second = PooledAngles.load(tmp_path / "angles.npz")
    assert second.images == 2
    for image in list(images())[2:]:
        second.add(*image)
    assert second.result() == whole.result()
    assert second.axes() == whole.axes()


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_damaged_is_a_sentence(tmp_path, content):
    path = tmp_path / "angles.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        PooledAngles.load(path)


def test_another_programs_arrays_are_a_sentence(tmp_path):
    path = tmp_path / "angles.npz"
    np.savez(path, bins=np.zeros(3, np.int64), numbers=np.zeros(3))
    with pytest.raises(DataError, match="not what an evaluation of normals writes"):
        PooledAngles.load(path)
    np.savez(path, bins=np.array([{}], dtype=object), numbers=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        PooledAngles.load(path)
