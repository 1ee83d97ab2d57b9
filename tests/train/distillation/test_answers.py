"""What a step learns from: the teacher's own words, each several times, the same when a run goes on."""

from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import pytest
import torch

from e2e_deploy.errors import DataError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.settings import AugmentConfig
from e2e_deploy.train.distillation.answers import ROUND_BATCHES, Answers, Rounds, answers_of
from e2e_deploy.train.distillation.losses import decoder_loss, encoder_loss
from e2e_deploy.train.distillation.measured import Chain
from e2e_deploy.train.distillation.sources import Views, window
from tests.train.small_runs import write_start


class Numbered:
    """Picture n is grey n; number 1 is damaged."""

    name = "numbered"

    def __len__(self):
        return 4

    def read(self, index):
        if index == 1:
            raise DataError("picture 1 is damaged")
        return np.full((20, 30, 3), index, np.uint8)

    def fingerprint(self):
        return ""


def rounds(**changes):
    views = Views(Numbered(), [0, 1, 2, 3], (8, 16), workers=2, on_bad="skip")
    asked = []

    def answer(rgb):
        asked.append(rgb)
        numbers = torch.arange(len(rgb), dtype=torch.float32)[:, None, None, None]
        return Answers(rgb, numbers, numbers, None)

    settings = {"batch": 3, "uses": 2, "seed": 5, "device": torch.device("cpu")}
    return Rounds(views, answer, **settings | changes), asked


def test_every_answer_is_used_so_often():
    source, asked = rounds()
    per_round, orders = 2 * ROUND_BATCHES, []
    for step in range(per_round):
        source.go_to(step)
        orders += source.now.z_B4hw.flatten().tolist()
    assert len(asked) == 1
    first, second = orders[: len(orders) // 2], orders[len(orders) // 2 :]
    assert sorted(first) == sorted(second) == list(range(3 * ROUND_BATCHES))
    assert first != second
    source.go_to(per_round)
    assert len(asked) == 2
    assert not torch.equal(asked[0], asked[1])


def test_any_step_gives_the_same_by_itself():
    one, _ = rounds()
    for step in (0, 5, 17):
        one.go_to(step)
    other, _ = rounds()
    other.go_to(17)
    assert torch.equal(one.now.rgb_B3HW, other.now.rgb_B3HW)
    another, _ = rounds(seed=6)
    another.go_to(17)
    assert not torch.equal(one.now.rgb_B3HW, another.now.rgb_B3HW)


def test_a_damaged_picture_is_replaced_or_ends_it():
    drawn = Views(Numbered(), [0, 1, 2, 3], (8, 16), workers=1, on_bad="skip").draw(
        torch.Generator().manual_seed(0), 40
    )
    assert drawn.shape == (40, 3, 8, 16)
    assert set(drawn.unique().tolist()) == {0, 2, 3}
    with pytest.raises(DataError, match="picture 1"):
        Views(Numbered(), [1], (8, 16), workers=1, on_bad="stop").draw(torch.Generator(), 1)
    with pytest.raises(DataError, match="none of the 1 pictures"):
        Views(Numbered(), [1], (8, 16), workers=1, on_bad="skip").draw(torch.Generator(), 1)


def test_views_are_augmented_by_the_seed_alone():
    pictures, strong = Numbered(), Augmentation(AugmentConfig(noise=1.0))
    one, other = (
        Views(pictures, [2, 3], (8, 16), workers=workers, on_bad="stop", augmentation=strong).draw(
            torch.Generator().manual_seed(0), 6
        )
        for workers in (1, 3)
    )
    assert torch.equal(one, other)
    assert len(one.unique()) > 4


def test_a_window_has_the_aspect_and_lies_where_it_is_said():
    ramp = np.zeros((20, 60, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(60)[None], np.arange(20)[:, None]
    assert (window(ramp, (20, 20))[0, :, 0] == np.arange(20, 40)).all()  # the middle
    assert (window(ramp, (20, 20), 1.0, 0.0, 0.0)[0, :, 0] == np.arange(20)).all()
    corner = window(ramp, (10, 10), 0.5, 1.0, 1.0)
    assert (corner[0, :, 0] == np.arange(50, 60)).all()
    assert (corner[:, 0, 1] == np.arange(10, 20)).all()
    assert window(ramp, (64, 8)).shape == (64, 8, 3)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_teacher_that_learns_from_itself_has_nothing_to_learn(tmp_path, task):
    teacher = load_model(open_checkpoint(write_start(tmp_path / "start", task)))
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 40, 3), dtype=np.uint8)
    rgb = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = answers_of(teacher, rgb, batch=2, predicts=True, decodes=True, in_bf16=False)
    # Vectors are divided by their length twice, and a batch may round otherwise than its parts.
    assert float(decoder_loss(teacher, found)) < 1e-5
    assert float(encoder_loss(teacher, found, x0_weight=1.0)) < 1e-9
    wrong = Answers(rgb.flip(0), found.z_B4hw, found.x0_B4hw, found.result_BCHW.flip(0))
    assert float(decoder_loss(teacher, wrong)) > 1e-2
    apart = [float(encoder_loss(teacher, wrong, x0_weight=weight)) for weight in (0.0, 1.0, 2.0)]
    assert 0 < apart[0] < apart[1] < apart[2]
    assert apart[2] - apart[1] == pytest.approx(apart[1] - apart[0])
    with torch.no_grad():
        expected = teacher(rgb[:1])[0].permute(1, 2, 0).numpy()
    result = Chain(teacher, teacher, teacher)(frames[0])
    # Lengths below one make an error of vectors larger.
    np.testing.assert_allclose(result.reshape(expected.shape), expected, atol=2e-4)


def test_parts_of_three_models_make_a_chain(tmp_path):
    parts = ("encode", "predict_x0", "decode")
    models = [
        load_model(open_checkpoint(write_start(tmp_path / str(seed), seed=seed)))
        for seed in range(3)
    ]
    frame = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    with ExitStack() as refused:
        for own, model in zip(parts, models, strict=True):
            for part in parts:
                if part != own:
                    refused.enter_context(patch.object(model, part, side_effect=AssertionError))
        assert Chain(*models)(frame).shape == (32, 40)
