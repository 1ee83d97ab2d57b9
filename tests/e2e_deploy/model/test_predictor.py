import gc

import numpy as np
import pytest
import torch

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.predictor import MAX_SIZES, Predictor
from e2e_deploy.model.single_step import FrameModel


def test_pictures_of_any_size_go_through_the_reference(small, rng):
    checkpoint = open_checkpoint(small)
    predict, model = Predictor(checkpoint, resolution=48, device="cpu"), load_model(checkpoint)
    assert predict.task == "depth"
    for size in ((40, 64), (64, 40), (40, 64)):
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        reference = FrameModel(model, model.plan(size, 48), ("depth",))
        expected = reference(torch.from_numpy(picture)[None])[0].detach().numpy()
        np.testing.assert_array_equal(predict(picture), expected)


def test_pictures_of_ever_new_sizes_take_no_more_memory(small):
    predict = Predictor(open_checkpoint(small), resolution=32, device="cpu")
    for width in range(40, 40 + 2 * MAX_SIZES):
        assert predict(np.zeros((32, width, 3), np.uint8)).shape == (32, width)
    held = [each for each in gc.get_objects() if type(each) is FrameModel]
    assert len([each for each in held if each.model is predict._network]) == MAX_SIZES


def test_devices_that_are_not_here(small):
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        Predictor(open_checkpoint(small), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match='use `device="cpu"`'):
            Predictor(open_checkpoint(small), device="cuda")
