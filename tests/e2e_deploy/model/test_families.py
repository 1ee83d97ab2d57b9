import pytest

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.families import UNSUPPORTED, get_family, identify

MARIGOLD = {"_class_name": "MarigoldDepthPipeline"}
SD = {"_class_name": "StableDiffusionPipeline"}
UNET = {"in_channels": 8, "cross_attention_dim": 1024}


def told(model_index, *, scheduler=(), unet=(), card=(), **named):
    found = identify(model_index, dict(scheduler), UNET | dict(unet), dict(card), **named)
    return found.family.name, found.task


def test_diffusers_marigold_pipelines_tell_family_and_task():
    assert told(MARIGOLD) == ("marigold", "depth")
    assert told({"_class_name": "MarigoldNormalsPipeline"}) == ("marigold", "normals")


@pytest.mark.parametrize("pipeline", ["MarigoldPipeline", "StableDiffusionPipeline"])
def test_e2e_ft_folders_tell_nothing_so_defaults_and_names_decide(pipeline):
    index = {"_class_name": pipeline}
    assert told(index) == ("e2e-ft", "depth")
    assert told(index, task="normals") == ("e2e-ft", "normals")
    assert told(index, family="marigold") == ("marigold", "depth")


def test_the_prediction_type_of_a_model_index_tells_the_task():
    assert told(SD | {"prediction_type": "normals"}) == ("e2e-ft", "normals")


def test_a_name_beats_the_card_and_the_card_beats_the_pipeline():
    card = {"family": "e2e-ft", "task": "depth"}
    assert told(MARIGOLD, card=card) == ("e2e-ft", "depth")
    assert told(MARIGOLD, card=card, family="marigold") == ("marigold", "depth")


def test_every_decision_has_its_reason():
    reasons = identify(SD, {}, UNET, {}, task="normals").reasons
    assert reasons == (
        "family e2e-ft: the default, StableDiffusionPipeline does not tell",
        "task normals: named by you",
    )


def test_a_named_task_that_contradicts_the_pipeline():
    with pytest.raises(CheckpointError, match=r"predicts depth .* task named is normals"):
        told(MARIGOLD, task="normals")


@pytest.mark.parametrize(
    ("scheduler", "unet", "name"),
    [
        ({"_class_name": "LCMScheduler"}, {}, "Marigold LCM"),
        ({"beta_start": 1.0, "beta_end": 1.0}, {"in_channels": 4}, "GenPercept"),
        (
            {},
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 10},
            "GeoWizard",
        ),
        ({}, {"cross_attention_dim": 768}, "GeoWizard"),
        (
            {},
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4},
            "Lotus",
        ),
    ],
)
@pytest.mark.parametrize("index", [MARIGOLD, SD, {"_class_name": "SomePipeline"}])
def test_relatives_are_refused_by_name(scheduler, unet, name, index):
    with pytest.raises(CheckpointError, match=f"the checkpoint is {name}.*not supported"):
        told(index, scheduler=scheduler, unet=unet)


@pytest.mark.parametrize("index", [{}, {"_class_name": "FluxPipeline"}])
def test_an_unknown_pipeline_is_named(index):
    with pytest.raises(CheckpointError, match=str(index.get("_class_name", "none"))):
        told(index)


@pytest.mark.parametrize("name", [*UNSUPPORTED, "marigold-v1", ""])
def test_a_family_that_cannot_be_used(name):
    with pytest.raises(UsageError, match="supported: e2e-ft, marigold"):
        get_family(name)


def test_an_unknown_task():
    with pytest.raises(UsageError, match="disparity"):
        told(SD, task="disparity")
