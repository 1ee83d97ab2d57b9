import numpy as np
import pytest

from e2e_deploy.train.normals_axes import AxesComparison


def normals(seed=0, size=(40, 50)):
    """Mostly facing the viewer and up, as in real scenes."""
    vectors = np.random.default_rng(seed).normal([0, 0.4, 1.0], [0.6, 0.5, 0.3], (*size, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def compare(pred, target, valid=None):
    comparison = AxesComparison()
    valid = np.ones(target.shape[:2], bool) if valid is None else valid
    for rows in np.array_split(np.arange(len(target)), 3):  # pooled as if it were three images
        comparison.add(pred[rows], target[rows], valid[rows])
    return comparison.result()


def test_equal_axes_correlate_fully():
    truth = normals()
    fit = compare(3 * truth, truth)
    assert fit.axes == "x y z"
    assert fit.correlation == fit.as_given == pytest.approx(1)
    assert not fit.differ


@pytest.mark.parametrize(
    ("axes", "turn"),
    [
        ("-x y z", lambda n: n * [-1, 1, 1]),
        ("x -y -z", lambda n: n * [1, -1, -1]),  # OpenCV's axes
        ("y x z", lambda n: n[..., [1, 0, 2]]),
        ("z x -y", lambda n: n[..., [1, 2, 0]] * [1, -1, 1]),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_mirrored_and_exchanged_axes_are_named(axes, turn, noise):
    truth = normals()
    guess = truth + np.random.default_rng(1).normal(0, noise, truth.shape)
    fit = compare(turn(guess), truth)
    assert fit.axes == axes
    assert fit.differ


def test_what_has_learned_nothing_is_not_called_turned():
    truth = normals()
    rng = np.random.default_rng(2)
    upward = np.broadcast_to([0.0, 1.0, 0.0], truth.shape)  # most of the truth points to the viewer
    assert compare(upward, truth) is None
    assert not compare(upward + rng.normal(0, 0.1, truth.shape), truth).differ
    assert not compare(rng.normal(size=truth.shape), truth).differ


def test_only_valid_pixels_count():
    truth = normals()
    guess, valid = truth.copy(), np.ones(truth.shape[:2], bool)
    guess[:10] *= [-1, 1, 1]
    guess[10:12] = 0
    valid[:10] = False
    truth[12:14] = 0
    assert compare(guess, truth, valid).as_given == pytest.approx(1)
    assert compare(guess, truth, np.zeros_like(valid)) is None
