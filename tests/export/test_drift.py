import csv

import cv2
import pytest

from e2e_deploy.export.drift import layer_drift, write_plot, write_table
from e2e_deploy.model.checkpoint import open_checkpoint
from tests.family_checkpoints.depthmaster import write_depthmaster
from tests.family_checkpoints.sd2 import LEAN


@pytest.fixture(scope="module")
def reports(small):
    from e2e_deploy.assets.pictures import reference_frames

    frame, checkpoint = reference_frames((64, 96), 1)[0], open_checkpoint(small)
    return {p: layer_drift(checkpoint, frame, p, resolution=96) for p in ("fp32", "fp16", "bf16")}


def test_fp32_does_not_drift_from_itself(reports):
    assert all(layer.relative_error == 0 for layer in reports["fp32"])


def test_layers_come_in_order_of_execution_and_by_module_path(reports):
    names = [layer.layer for layer in reports["fp16"]]
    assert names == [layer.layer for layer in reports["fp32"]]
    assert names[0] == "vae.encoder.conv_in"
    assert names[-1] == "vae.decoder.conv_out"
    assert names.index("unet.conv_in") < names.index("vae.decoder.conv_in")
    assert len(names) == len(set(names)) > 40


def test_fewer_bits_drift_more(reports):
    half, brain = (reports[p][-1].relative_error for p in ("fp16", "bf16"))
    assert 0 < half < 0.02
    assert 2 * half < brain < 0.3  # three bits fewer


def test_entered_adds_up_to_the_last_error(reports):
    report = reports["fp16"]
    assert sum(layer.entered for layer in report) == pytest.approx(report[-1].relative_error)
    assert all(layer.headroom == pytest.approx(65504 / layer.largest) for layer in report)


def test_table_and_plot_are_written(reports, tmp_path):
    write_table(reports["fp16"], tmp_path / "layers.csv")
    rows = list(csv.DictReader((tmp_path / "layers.csv").read_text().splitlines()))
    assert [row["layer"] for row in rows] == [layer.layer for layer in reports["fp16"]]
    write_plot(reports["fp16"], tmp_path / "layers.png", "fp16")
    picture = cv2.imread(str(tmp_path / "layers.png"))
    assert picture.shape[:2] == (420, 1100)
    assert (picture != 255).any()


def test_a_block_that_stays_fp32_as_a_whole(tmp_path):
    from e2e_deploy.assets.pictures import reference_frames

    checkpoint = open_checkpoint(write_depthmaster(tmp_path / "c", **LEAN))
    report = layer_drift(checkpoint, reference_frames((64, 96), 1)[0], "fp16", resolution=0)
    names = [layer.layer for layer in report]
    assert {"unet.fftblock.norm", "unet.fftblock.fuse"} <= set(names)
    assert len(names) == len(set(names))
