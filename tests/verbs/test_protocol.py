"""evaluate_protocol from a model's name to its files, with bundles whose results are known and a real checkpoint."""

import csv
import json

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.cli import main
from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.metrics import depth_metrics
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.predictor import Predictor
from e2e_deploy.verbs.subject import open_subject
from tests.family_checkpoints.geowizard import write_geowizard
from tests.plain_bundle import HW, write_plain_bundle
from tests.small_checkpoint import write_small
from tests.train.protocol import made_sets


def ramp(shape):
    return np.linspace(1, 5, shape[0] * shape[1]).reshape(shape)


def patterned(root, seed, shape=HW, name="000100"):
    """A ScanNet image whose depth is the mean of its channels, in metres from 1 to 6, but for noise; a PNG's worth."""
    draw = np.random.default_rng(seed)
    grey = np.kron(draw.integers(40, 200, (shape[0] // 8, shape[1] // 8)), np.ones((8, 8)))
    made_sets.scannet(root, 0, 1 + grey / 51 + draw.normal(0, 0.05, shape), name=name)
    path = root / "scannet/scannet_val_sampled_800_1/scene0406_02/color" / f"{name}.jpg"
    cv2.imwrite(str(path), grey.astype(np.uint8)[..., None].repeat(3, axis=-1))


@pytest.fixture
def data(tmp_path):
    for seed, name in ((1, "000100"), (2, "000200")):
        patterned(tmp_path / "data", seed, name=name)
    return tmp_path / "data"


def test_a_bundle_is_measured_as_it_runs(tmp_path, data):
    bundle, said = write_plain_bundle(tmp_path / "bundle"), []
    report = e2e.evaluate_protocol(
        bundle,
        data,
        results=tmp_path / "results",
        rows=tmp_path / "rows.csv",
        worst=tmp_path / "worst.png",
        on_note=said.append,
    )
    (result,) = report.results
    assert result.contender.backend == "onnxruntime"
    assert result.contender.checkpoint == e2e.open_bundle(bundle).manifest.checkpoint.sha256
    assert 0 < result.metrics["abs_rel"] < 0.05
    assert report.problems == []
    assert said[0].startswith("backend: onnxruntime")
    assert said[1] == "note: untrained weights"
    assert result.differences[-1] == "untrained weights"
    with e2e.load(bundle) as engine:
        frames = sorted((data / "scannet").rglob("*.jpg"))
        depths = sorted((data / "scannet").rglob("*.png"))
        expected = []
        for frame, depth in zip(frames, depths, strict=True):
            truth = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED) / 1000
            given = engine.predict(cv2.imread(str(frame))[..., ::-1])
            expected.append(depth_metrics(given, truth, truth > 0, max_depth=10).abs_rel)
    assert result.metrics["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-6)
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [float(row["abs_rel"]) for row in rows] == pytest.approx(expected, rel=1e-6)
    assert {row["set"] for row in rows} == {"scannet"}
    assert cv2.imread(str(tmp_path / "worst.png")).shape[1] == 960


def test_rows_go_into_parquet(tmp_path, data):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'e2e-deploy[parquet]'")
    bundle = write_plain_bundle(tmp_path / "bundle")
    report = e2e.evaluate_protocol(
        bundle, data, results=tmp_path / "results", rows=tmp_path / "rows.parquet"
    )
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert np.mean([row["abs_rel"] for row in rows]) == report.results[0].metrics["abs_rel"]
    assert [row["left_out"] for row in rows] == [None, None]


def test_a_bundle_of_several_sizes_uses_that_of_the_picture(tmp_path, data):
    patterned(tmp_path / "other", 3, shape=(48, 64))
    bundle = write_plain_bundle(tmp_path / "bundle", sizes=(HW, (48, 64)))
    for root in (data, tmp_path / "other"):
        report = e2e.evaluate_protocol(bundle, root, results=tmp_path / "results" / root.name)
        assert not any("are seen" in clause for clause in report.results[0].differences)
    alone = write_plain_bundle(tmp_path / "alone")
    report = e2e.evaluate_protocol(alone, tmp_path / "other", results=tmp_path / "fitted")
    assert report.results[0].differences[0] == (
        "pictures of 64x48 fitted into frames of 32x24 are seen with a longest edge of 32 px; "
        "published: the pictures' own size"
    )


def test_a_checkpoint_sees_each_set_at_its_own_resolution(tmp_path):
    truth = ramp((48, 64))
    data, folder = tmp_path / "data", write_small(tmp_path / "checkpoint")
    made_sets.scannet(data, 90, truth)
    made_sets.diode(data, 90, truth, truth > 0)
    predictor = Predictor(open_checkpoint(folder), resolution=0, device="cpu")
    result = e2e.evaluate_protocol(
        folder, data, sets=["scannet"], device="cpu", results=tmp_path / "results"
    ).results[0]
    frame = np.full((48, 64, 3), 90, np.uint8)
    stored = np.rint(truth * 1000) / 1000
    expected = depth_metrics(predictor(frame), stored, stored > 0, min_depth=1e-3, max_depth=10)
    assert result.metrics["abs_rel"] == pytest.approx(expected.abs_rel, rel=1e-5)
    assert result.differences == ["1 of the 800 published images"]
    assert (result.contender.backend, result.contender.precision) == ("pytorch", "fp32")
    smaller = e2e.evaluate_protocol(
        folder, data, sets=["diode"], device="cpu", resolution=64, results=tmp_path / "results"
    ).results[0]
    expected = depth_metrics(predictor(frame), truth, truth > 0, min_depth=0.6, max_depth=350)
    assert smaller.metrics["abs_rel"] == pytest.approx(expected.abs_rel, rel=1e-5)
    assert smaller.differences == [
        "pictures of 64x48 are seen with a longest edge of 64 px; published: 640 px",
        "1 of the 771 published images",
    ]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"sets": ["nyuv2"]}, DataError, "NYUv2 is not in"),
        ({"sets": []}, UsageError, "`sets` is empty"),
        ({"sets": "nyuv2"}, UsageError, r"a list such as \['nyuv2'\]"),
        ({"limit": 0}, UsageError, "`limit` is 0"),
        ({"sets": ["imagenet"]}, UsageError, "`sets` is 'imagenet'"),
        ({"protocol": "mine"}, UsageError, "`protocol` is 'mine'"),
        ({"kitti_mask": "mine"}, UsageError, "`kitti_mask` is 'mine'"),
        ({"rows": "rows.txt"}, UsageError, "must end in .csv or .parquet"),
        ({"worst": "worst.jpg"}, UsageError, "must end in .png"),
        ({"resolution": 64}, UsageError, "`resolution` is for checkpoints"),
        ({"steps": 4}, UsageError, '`steps` is for `backend="diffusers"`'),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    tmp_path, data, monkeypatch, given, error, said
):
    monkeypatch.chdir(tmp_path)
    bundle = write_plain_bundle(tmp_path / "bundle")
    with pytest.raises(error, match=said):
        e2e.evaluate_protocol(bundle, data, **given)
    assert not list(tmp_path.glob("results/*"))


def test_rows_are_not_written_into_the_data(tmp_path, data):
    bundle = write_plain_bundle(tmp_path / "bundle")
    with pytest.raises(UsageError, match="lies in the data set"):
        e2e.evaluate_protocol(bundle, data, rows=data / "rows.csv")


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def test_the_command_prints_our_row_and_says_what_differs(tmp_path, data, capsys):
    (extra,) = (data / "scannet").rglob("000100.jpg")
    extra.with_name("000300.jpg").write_bytes(extra.read_bytes())
    bundle = write_plain_bundle(tmp_path / "bundle")
    options = ("--protocol", "e2e-ft", "--results", tmp_path / "results")
    code, stdout, stderr = call(capsys, "eval", bundle, data, *options)
    assert code == 0
    (row,) = (line for line in stdout.splitlines() if line.startswith("> "))
    assert "bundle" in row
    assert "not measured" in row
    assert "Marigold + E2E FT" in stdout
    assert "kitti: not measured: data not here" in stdout
    assert "on scannet, not as published: 2 of the 800 published images" in stdout
    assert "kitti/kitti_eigen_split_test.tar" in stderr
    assert "scannet: 1 left out: truth file missing" in stderr
    code, stdout, stderr = call(capsys, "eval", bundle, data, *options, "--json")
    assert code == 0
    (result,) = json.loads(stdout)
    assert (result["set"], result["num_images"]) == ("scannet", 2)
    assert "ScanNet was measured before" in stderr


def test_the_command_takes_several_models_and_ends_with_code_3_if_one_is_inverted(
    tmp_path, data, capsys
):
    for path in (data / "scannet").rglob("*.png"):
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.uint16(8000) - depth)
    one, two = (write_plain_bundle(tmp_path / name, note=name) for name in ("one", "two"))
    options = ("--protocol", "e2e-ft", "--sets", "scannet", "--results", tmp_path / "results")
    code, stdout, stderr = call(capsys, "eval", one, two, data, *options)
    assert code == 3
    assert {"> one", "> two"} <= {line[:5] for line in stdout.splitlines()}
    for name in ("one", "two"):  # every reason, not the first alone
        assert f"{name} (onnxruntime, fp32) on scannet: the depth is inverted" in stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sets", "nyuv2"], "--sets needs --protocol"),
        (["--results", "r"], "--results needs --protocol"),
        (["--kitti-mask", "garg"], "--kitti-mask needs --protocol"),
        (["--protocol", "e2e-ft", "--split", "val"], "--split is for folder data sets"),
        (["--protocol", "e2e-ft", "--sets", "nyuv2,x"], "'x' is not one of nyuv2"),
    ],
)
def test_options_without_effect_are_wrong_usage(tmp_path, capsys, words, said):
    code, stdout, stderr = call(capsys, "eval", tmp_path, tmp_path, *words)
    assert (code, stdout) == (2, "")
    assert said in " ".join(stderr.split())


def test_several_models_need_the_protocol_and_share_no_file(tmp_path, capsys):
    code, _, stderr = call(capsys, "eval", "one", "two", tmp_path)
    assert (code, "2 models need --protocol" in stderr) == (2, True)
    words = ("--protocol", "e2e-ft", "--rows", "rows.csv")
    code, _, stderr = call(capsys, "eval", "one", "two", tmp_path, *words)
    assert (code, "--rows is one file, and 2 models were given" in stderr) == (2, True)


def test_a_geowizard_gives_two_results_and_hears_the_domain_of_each_set(tmp_path):
    folder, data = write_geowizard(tmp_path / "checkpoint"), tmp_path / "data"
    made_sets.scannet(data, 90, ramp((48, 64)))
    top = data / "dsine_eval" / "nyuv2" / "test"
    made_sets.write_grey(top / "0001_img.png", (48, 64), 120)
    made_sets.write_grey(top / "0001_normal.png", (48, 64), 200)
    report = e2e.evaluate_protocol(
        folder, data, device="cpu", results=tmp_path / "results", published_input=False
    )
    assert [(each.measure, each.contender.kind) for each in report.results] == [
        ("depth", "depth"),
        ("normals", "normals"),
    ]
    with open_subject(folder, device="cpu") as subject:
        assert subject.takes_domain
        frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        shown = [subject.results(frame, 0, domain)["depth"] for domain in ("outdoor", "indoor")]
    checkpoint = open_checkpoint(folder, settings={"domain": "outdoor"})
    alone = Predictor(checkpoint, resolution=0, device="cpu").results(frame)["depth"]
    np.testing.assert_array_equal(shown[0], alone)
    assert np.abs(shown[0] - shown[1]).max() > 1e-4


def test_the_protocols_sets_are_no_folder_data_set(tmp_path, data, capsys):
    bundle = write_plain_bundle(tmp_path / "bundle")
    code, _, stderr = call(capsys, "eval", bundle, data)
    assert code == 2
    assert "sets of the published protocol (scannet); measure on them with --protocol" in stderr


def test_the_folder_of_all_sets_is_looked_at_before_the_model(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    options = ("--protocol", "e2e-ft", "--results", tmp_path / "results")
    code, _, stderr = call(capsys, "eval", "no-model", tmp_path / "nowhere", *options)
    assert (code, "nowhere is not a folder" in stderr) == (5, True)
    code, _, stderr = call(capsys, "eval", "no-model", "x" * 300, *options)
    assert (code, "is not a folder" in stderr) == (5, True)
    code, _, stderr = call(capsys, "eval", "no-model", tmp_path / "empty", *options)
    assert (code, "dsine_eval/sintel in it; docs/evaluation.md" in stderr) == (5, True)
    assert not (tmp_path / "results").exists()
