"""Things assembled of parts: whole, standing, of the size of such things, and different each time."""

import numpy as np
import pytest

from e2e_deploy.train.rendering.scenes import machines
from e2e_deploy.train.rendering.scenes.machines import MACHINES, rack

MAKERS = sorted({*MACHINES, rack}, key=lambda maker: maker.__name__)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_a_thing_stands_on_the_ground_in_one_piece(maker) -> None:
    sizes = []
    for seed in range(6):
        prop = maker(np.random.default_rng(seed))
        low, high = prop.bounds
        sizes.append(tuple(high - low))
        assert -0.25 < low[1] < 0.1  # wheels sink in a little where a thing leans
        assert 0.3 < (high - low).max() < 4.5
        for mesh, look in prop.parts:
            assert np.isfinite(mesh.vertices).all()
            np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-4)
            assert mesh.faces.max() < len(mesh.vertices)
            assert look.texture.shape == (256, 256, 3)
        assert _in_one_piece(prop)
    assert len(set(sizes)) == 6


def _in_one_piece(prop) -> bool:
    """Whether every part's box touches another's, give or take 6 cm, so that nothing hangs in the air."""
    boxes = [mesh.bounds for mesh, _ in prop.parts]
    low, high = (np.array([box[end] for box in boxes]) for end in (0, 1))
    touch = ((low[:, None] < high[None] + 0.06) & (high[:, None] > low[None] - 0.06)).all(-1)
    reached = np.zeros(len(boxes), bool)
    reached[0] = True
    for _ in boxes:
        more = touch[reached].any(0)
        if (more == reached).all():
            break
        reached = more
    return bool(reached.all())


def test_a_path_goes_from_its_first_point_to_its_last() -> None:
    path = machines._bent((0, 0, 0), (1, 2, 0), (2, 0, 0), steps=21)
    np.testing.assert_allclose(path[[0, 10, 20]], [[0, 0, 0], [1, 1, 0], [2, 0, 0]], atol=1e-12)
