import re

import pytest

from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.nvidia.rtx_support import NOT_SERVED, SERVED, rtx_refusal
from e2e_deploy.nvidia.trt_api import find_api


@pytest.mark.parametrize("target", SERVED)
def test_rtx_cards(target):
    assert rtx_refusal(Gpu("NVIDIA RTX", target, (13, 0))) == ""


@pytest.mark.parametrize("target", [*NOT_SERVED, "sm70", "sm61"])
@pytest.mark.parametrize("argument", ["backend", "engine"])
def test_others_are_told_what_serves_them(target, argument):
    said = rtx_refusal(Gpu("NVIDIA Fake", target, (13, 0)), argument)
    assert f"this GPU, NVIDIA Fake ({target})" in said
    for way in ("tensorrt", "inductor"):
        assert f'`{argument}="{way}"`' in said


def test_what_came_later_is_left_to_the_library():
    assert rtx_refusal(Gpu("NVIDIA RTX 7090", "sm130", (14, 0))) == ""


@pytest.mark.rtx
def test_the_builder_and_the_table_agree():
    targets = find_api("tensorrt-rtx").targets
    names = {target for target in targets if re.fullmatch(r"sm\d+", target)}
    assert set(SERVED) <= names
    assert not names & set(NOT_SERVED)
