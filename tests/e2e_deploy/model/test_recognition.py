import pytest

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.families import FAMILIES, REFUSED, get_family
from e2e_deploy.model.recognition import Configs, identify
from e2e_deploy.names import FAMILY_NAMES

MARIGOLD = {"_class_name": "MarigoldDepthPipeline"}
SD = {"_class_name": "StableDiffusionPipeline"}
UNET = {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 1024}


def told(model_index, *, scheduler=(), unet=(), card=(), there=(), **named):
    configs = Configs(model_index, dict(scheduler), UNET | dict(unet), dict(card), frozenset(there))
    found = identify(configs, **named)
    return found.family.name, found.task


def test_diffusers_marigold_pipelines_tell_family_and_task():
    assert told(MARIGOLD) == ("marigold", "depth")
    assert told({"_class_name": "MarigoldNormalsPipeline"}) == ("marigold", "normals")


def test_an_lcm_scheduler_tells_the_family_and_the_pipeline_the_task():
    scheduler = {"_class_name": "LCMScheduler"}
    assert told(MARIGOLD, scheduler=scheduler) == ("lcm", "depth")
    assert told({"_class_name": "MarigoldNormalsPipeline"}, scheduler=scheduler) == (
        "lcm",
        "normals",
    )
    with pytest.raises(CheckpointError, match="has an LCMScheduler, as lcm has, but the family"):
        told(MARIGOLD, scheduler=scheduler, family="marigold")


@pytest.mark.parametrize("pipeline", ["MarigoldPipeline", "StableDiffusionPipeline"])
def test_e2e_ft_folders_tell_nothing_so_defaults_and_names_decide(pipeline):
    index = {"_class_name": pipeline}
    assert told(index) == ("e2e-ft", "depth")
    assert told(index, task="normals") == ("e2e-ft", "normals")
    assert told(index, family="marigold") == ("marigold", "depth")


def test_the_prediction_type_of_a_model_index_tells_the_task():
    assert told(SD | {"prediction_type": "normals"}) == ("e2e-ft", "normals")
    assert told(MARIGOLD | {"prediction_type": "depth"}) == ("marigold", "depth")


def test_disparity_is_not_passed_off_as_depth():
    """diffusers' MarigoldDepthPipeline may predict either."""
    with pytest.raises(UsageError, match="do not do disparity; they do depth, normals"):
        told(MARIGOLD | {"prediction_type": "disparity"})


def test_a_pipeline_and_a_prediction_type_that_contradict_each_other():
    with pytest.raises(CheckpointError, match="a MarigoldDepthPipeline whose prediction_type is"):
        told(MARIGOLD | {"prediction_type": "normals"})


def test_a_name_beats_the_card_and_the_card_beats_the_pipeline():
    card = {"family": "e2e-ft", "task": "depth"}
    assert told(MARIGOLD, card=card) == ("e2e-ft", "depth")
    assert told(MARIGOLD, card=card, family="marigold") == ("marigold", "depth")


def test_every_decision_has_its_reason():
    reasons = identify(Configs(SD, {}, UNET, {}), task="normals").reasons
    assert reasons == (
        "family e2e-ft: the default, StableDiffusionPipeline does not tell",
        "task normals: named by you",
    )
    lcm = identify(Configs(MARIGOLD, {"_class_name": "LCMScheduler"}, UNET, {}))
    assert lcm.reasons == (
        "family lcm: from an LCMScheduler",
        "task depth: from MarigoldDepthPipeline",
    )


def test_a_named_task_that_contradicts_the_pipeline():
    with pytest.raises(CheckpointError, match=r"predicts depth .* task named is normals"):
        told(MARIGOLD, task="normals")


@pytest.mark.parametrize(
    ("unet", "prediction", "name"),
    [
        ({"projection_class_embeddings_input_dim": 10}, "v_prediction", "geowizard"),
        ({"cross_attention_dim": 768}, "v_prediction", "geowizard"),
        ({"projection_class_embeddings_input_dim": 4}, "v_prediction", "geowizard-v2"),
    ],
)
@pytest.mark.parametrize("index", [SD, {"_class_name": "DepthNormalEstimationPipeline"}])
def test_a_class_embedding_or_its_context_tells_geowizard(unet, prediction, name, index):
    unet = {"class_embed_type": "projection"} | unet
    assert told(index, unet=unet, scheduler={"prediction_type": prediction}) == (name, "geometry")


@pytest.mark.parametrize("index", [{}, {"_class_name": "KandinskyPipeline"}])
def test_an_unknown_pipeline_is_named(index):
    with pytest.raises(CheckpointError, match=str(index.get("_class_name", "none"))):
        told(index)


@pytest.mark.parametrize("name", ["marigold-v1", ""])
def test_a_family_that_cannot_be_used(name):
    with pytest.raises(UsageError, match="supported: e2e-ft, marigold"):
        get_family(name)


@pytest.mark.parametrize("name", REFUSED)
def test_a_known_family_that_is_refused_says_why(name):
    with pytest.raises(UsageError, match=REFUSED[name].split("(")[0]):
        get_family(name)


def test_an_unknown_task():
    with pytest.raises(UsageError, match="unknown task 'heat'"):
        told(SD, task="heat")


def test_a_task_that_the_family_does_not_do():
    with pytest.raises(UsageError, match="do not do matting; they do depth, normals"):
        told(SD, task="matting")


@pytest.mark.parametrize("index", [SD, {"_class_name": "MarigoldPipeline"}])
def test_a_folder_of_four_channels_tells_no_family(index):
    four = {"in_channels": 4}
    with pytest.raises(CheckpointError, match="does not tell its family.*`family`: .*e2e-ft"):
        told(index, unet=four)
    assert told(index, unet=four, family="e2e-ft") == ("e2e-ft", "depth")
    assert told(index, unet=four, card={"family": "e2e-ft"}) == ("e2e-ft", "depth")


ONES = {"beta_start": 1.0, "beta_end": 1.0}
DECODER = ("vae_decoder", "vae_post_quant_conv")


@pytest.mark.parametrize("index", [MARIGOLD | {"_class_name": "StableDiffusionPipeline"}, {}])
@pytest.mark.parametrize(
    "sign",
    [
        {"scheduler": ONES},
        {"there": ["dpt_head_identity"]},
        {"there": DECODER},
        {"there": ["empty_text_embed.npy"]},
    ],
)
def test_genpercept_is_told_by_its_betas_and_by_what_lies_beside_the_unet(index, sign):
    assert told(index, task="disparity", **sign) == ("genpercept", "disparity")


def test_a_genpercept_pipeline_is_genpercept():
    assert told({"_class_name": "GenPerceptPipeline"}, task="matting") == ("genpercept", "matting")


def test_a_genpercept_checkpoint_must_say_its_task():
    with pytest.raises(CheckpointError, match="`task`: depth, disparity, normals, segm.*matting"):
        told(SD, family="genpercept")
    assert told(SD, card={"family": "genpercept", "task": "matting"}) == ("genpercept", "matting")
    assert told(SD | {"prediction_type": "normals"}, family="genpercept")[1] == "normals"


def test_a_dpt_head_gives_one_distance():
    with pytest.raises(CheckpointError, match="name it with `task`: disparity, depth$"):
        told(SD, there=["dpt_head_identity"])
    with pytest.raises(UsageError, match="does not do normals; it does disparity or depth"):
        told(SD, there=["dpt_head_identity"], task="normals")


def test_a_head_that_ends_in_a_relu_is_refused():
    with pytest.raises(CheckpointError, match="has dpt_head: a head whose last activation is a Re"):
        told(SD, there=["dpt_head"], family="genpercept", task="depth")


def test_a_decoder_of_its_own_is_two_folders_and_no_head():
    with pytest.raises(CheckpointError, match="has vae_decoder without vae_post_quant_conv"):
        told(SD, there=DECODER[:1], task="depth")
    with pytest.raises(CheckpointError, match="a DPT head .*and a decoder of its own"):
        told(SD, there=["dpt_head_identity", *DECODER], task="depth")


def test_what_lies_beside_a_unet_is_no_sign_against_a_named_family():
    with pytest.raises(CheckpointError, match="has dpt_head_identity, as genpercept has"):
        told(SD, there=["dpt_head_identity"], family="e2e-ft")


def test_a_flux_pipeline_is_refused_with_its_reason():
    with pytest.raises(CheckpointError, match="a FluxPipeline: Lotus-2 is a FLUX model"):
        told({"_class_name": "FluxPipeline"})


def test_every_family_has_a_row_and_its_name():
    assert set(FAMILIES) == set(FAMILY_NAMES)
    assert all(family.name == name and family.tasks for name, family in FAMILIES.items())


def test_a_marigold_of_sd1_is_no_geowizard():
    assert told(MARIGOLD, unet={"cross_attention_dim": 768}) == ("marigold", "depth")


@pytest.mark.parametrize("family", [None, "e2e-ft", "marigold"])
def test_a_text_encoder_tells_stable_diffusion_1_from_geowizard(family):
    there = {"there": ["text_encoder"], "unet": {"cross_attention_dim": 768}}
    assert told(SD, family=family, **there) == (family or "e2e-ft", "depth")
