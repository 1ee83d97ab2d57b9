from dataclasses import replace

import pytest

from e2e_deploy.train.comparison.comparison import compare
from e2e_deploy.train.comparison.text import comparison_text, remarks, shown_delta
from tests.train.comparison.made_results import contender, result

FIT = (
    "pictures of 1216x352 are seen with a longest edge of 640 px; published: the pictures' own size"
)


def cells(comparison, name="nyuv2"):
    """Cells of a set by model."""
    (section,) = comparison.sections
    return {line.contender.model: line.cells.get(name) for line in section.lines}


def test_what_fp16_and_int8_cost_is_said_against_the_float32_result():
    torch = result(contender("checkpoint"), pair=(5.2, 96.6), ms=300)
    fp16 = result(contender("half", "onnxruntime", "fp16"), pair=(5.25, 96.5), ms=100)
    int8 = result(contender("int8", "onnxruntime", "int8"), pair=(6.0, 96.0), ms=60)
    found = cells(compare([int8, fp16, torch]))
    assert list(found) == ["checkpoint", "half", "int8"]
    assert found["checkpoint"].is_reference
    assert found["checkpoint"].delta is None
    assert found["half"].delta == pytest.approx((0.05, -0.1))
    assert found["int8"].delta == pytest.approx((0.8, -0.6))
    assert (found["half"].speed, found["int8"].speed) == (3, 5)
    assert shown_delta(found["int8"].delta) == "+0.800/-0.600"


def test_the_reference_saw_the_pictures_alike_where_there_is_one():
    """A bundle of another size differs by its size too, which is not what its precision costs."""
    torch = result(contender("checkpoint"), "kitti", (9.0, 92.0))
    fp32 = result(contender("single", "openvino"), "kitti", (9.5, 91.0), differences=[FIT])
    fp16 = contender("half", "openvino", "fp16")
    half = result(fp16, "kitti", (9.6, 90.8), differences=["fp16; published: fp32", FIT])
    found = cells(compare([torch, fp32, half]), "kitti")
    assert found["half"].delta == pytest.approx((0.1, -0.2))
    assert found["single"].is_reference
    assert found["checkpoint"].is_reference
    alone = cells(compare([torch, half]), "kitti")["half"]
    assert alone.delta == pytest.approx((0.6, -1.2))
    assert not alone.same_input
    (section,) = compare([torch, half]).sections
    assert any("saw the pictures otherwise" in said for said in remarks(section))


def test_a_checkpoint_at_the_size_of_a_bundle_is_its_reference():
    same = ["pictures of 640x480 are seen with a longest edge of 320 px; published: x"]
    native = result(contender("native"), pair=(5.0, 97.0))
    torch = contender("asked", settings={"resolution": 320})
    smaller = result(torch, pair=(6.0, 96.0), differences=same)
    half = contender("half", "tensorrt", "fp16")
    fp16 = result(half, pair=(6.1, 95.9), differences=["fp16; published: fp32", *same])
    cell = cells(compare([native, smaller, fp16]))["half"]
    assert cell.reference is smaller
    assert cell.same_input


@pytest.mark.parametrize(
    "other",
    [
        {"checkpoint": "d" * 64},
        {"kind": "disparity"},
        {"settings": {"steps": 4}},
        {"backend": "diffusers"},
    ],
)
def test_only_the_same_weights_and_settings_are_a_reference(other):
    fp32 = result(contender("single", **other))
    fp16 = result(contender("half", "onnxruntime", "fp16"))
    (section,) = compare([fp32, fp16]).sections
    found = {line.contender.model: line.cells["nyuv2"] for line in section.lines}
    assert found["half"].reference is None
    assert found["half"].delta is None
    assert found["half"].speed is None
    assert any("no float32 result of the same weights" in said for said in remarks(section))


def test_other_pictures_are_no_reference():
    fp32 = result(contender("single"), pictures="e" * 64)
    fp16 = result(contender("half", precision="fp16"))
    assert cells(compare([fp32, fp16]))["half"].reference is None


@pytest.mark.parametrize(("hardware", "speed"), [("A CPU", 2), ("Another CPU", None), ("", None)])
def test_times_of_different_hardware_are_not_compared(hardware, speed):
    fp32 = result(contender("single"), ms=200)
    faster = contender("half", "onnxruntime", "fp16", device="CPU, 8 threads")
    cell = cells(compare([fp32, result(faster, ms=100, hardware=hardware)]))["half"]
    assert cell.delta == (0, 0)
    assert cell.speed == speed


def test_sets_stand_in_the_order_of_the_papers_and_times_are_means():
    who = contender("m")
    (section,) = compare(
        [result(who, "diode", ms=300), result(who, "nyuv2", ms=100), result(who, "eth3d", ms=200)]
    ).sections
    assert section.sets == ["nyuv2", "eth3d", "diode"]
    assert section.missing == ["kitti", "scannet"]
    assert section.lines[0].time_s == pytest.approx(0.2)


def test_two_models_of_one_label_are_told_apart():
    one = contender("m", "diffusers", settings={"steps": 1})
    ten = contender("m", "diffusers", settings={"steps": 10, "ensemble": 5})
    (section,) = compare([result(ten), result(one)]).sections
    assert sorted(section.labels) == [
        "m (diffusers, fp32) steps 1, cpu",
        "m (diffusers, fp32) steps 10, ensemble 5, cpu",
    ]
    assert sorted(row.runs for row in section.own_rows()) == ["10x5", "1x1"]


def test_the_same_model_on_two_machines_stands_in_two_lines():
    who = contender("m")
    (section,) = compare([result(who, ms=100), result(who, ms=300), result(who, "kitti")]).sections
    assert section.labels == ["m (pytorch, fp32) cpu #1", "m (pytorch, fp32) cpu #2"]
    assert [sorted(line.cells) for line in section.lines] == [["kitti", "nyuv2"], ["nyuv2"]]
    second = section.lines[1].cells["nyuv2"]
    assert second.delta == (0, 0)
    assert second.speed == pytest.approx(1 / 3)


def test_the_text_holds_every_number_and_says_what_is_worthless():
    depth = result(contender("runs/deep"), pair=(5.23, 96.61), differences=[FIT])
    flipped = result(
        contender("runs/flat", kind="normals", checkpoint="d" * 64),
        "sintel",
        (33.51, 21.4),
        problem="the normals are in other axes",
        left_out={"no valid pixel": 2},
    )
    text = comparison_text(compare([depth, flipped]))
    lines = text.splitlines()
    assert "5.23/96.61" in next(line for line in lines if line.startswith("runs/deep"))
    assert "33.51/21.4" in next(line for line in lines if line.startswith("runs/flat"))
    assert "flat (pytorch, fp32): worthless: the normals are in other axes" in lines
    assert f"deep (pytorch, fp32) on nyuv2: {FIT}" in lines
    assert "flat (pytorch, fp32) on sintel: 2 left out: no valid pixel" in lines
    assert "kitti: not measured: no result here" in lines
    assert any(line.startswith("> deep (pytorch, fp32)") for line in lines)
    assert "Marigold + E2E FT" in text
    assert "Marigold + E2E FT" not in comparison_text(compare([depth]), published=False)


def test_rows_for_programs_hold_the_change_and_its_reference():
    fp32 = result(contender("single"), pair=(5.0, 97.0), ms=200)
    fp16 = result(contender("half", "onnxruntime", "fp16"), pair=(5.1, 96.9), ms=100)
    base, half = compare([fp16, fp32]).rows()
    assert (base["model"], base["is_reference"], base["change"]) == ("single", True, None)
    assert half["change"] == pytest.approx([0.1, -0.1])
    assert (half["reference"], half["times_as_fast"]) == ("single (pytorch, fp32)", 2)
    assert half["metrics"] == fp16.metrics


def test_a_copy_of_a_result_is_not_a_second_machine():
    once = result(contender("checkpoint"), pair=(5.2, 96.6), ms=300)
    (section,) = compare([once, replace(once), replace(once, ms_per_image=200.0)]).sections
    assert [line.cells["nyuv2"].result.ms_per_image for line in section.lines] == [300, 200]
