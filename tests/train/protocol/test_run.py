"""A model through the sets that are here: what is measured, reused, missing, and said to differ."""

import json
from dataclasses import replace

import numpy as np
import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.protocol import run as module
from e2e_deploy.train.protocol.catalogue import SETS, SetVariants
from e2e_deploy.train.protocol.result import Contender, read_result, read_results
from e2e_deploy.train.protocol.run import Model, require_sets, run_protocol
from tests.train.protocol import made_sets

TRUTH = np.linspace(1, 5, 20 * 24).reshape(20, 24)
CONTENDER = Contender(
    model="/models/my model",
    identity="ab" * 32,
    checkpoint="ef" * 32,
    family="e2e-ft",
    task="depth",
    kind="depth",
    backend="pytorch",
    device="cpu",
    precision="fp32",
    settings={},
)


class Counting:
    """Predicts by the grey level; ``seen`` and ``domains`` are the longest edges and domains that it was told."""

    def __init__(self):
        self.seen, self.domains = [], []

    def __call__(self, frame, resolution, domain):
        self.seen.append(resolution)
        self.domains.append(domain)
        draw = np.random.default_rng(int(frame[0, 0, 0])).random(frame.shape[:2])
        return {"depth": TRUTH + draw if frame.shape[:2] == TRUTH.shape else draw}


def model(results=None, contender=CONTENDER, kinds=("depth",), fixed=None, resolution=None):
    return Model(
        contender=contender,
        kinds=kinds,
        results=results or Counting(),
        fixed=fixed or (lambda hw, longest: None),
        resolution=resolution,
    )


def run(tmp_path, ready, names=None, variants=None, limit=None):
    said, progress = [], []
    report, _ = run_protocol(
        ready,
        tmp_path / "data",
        tmp_path / "results",
        names=names,
        variants=variants or SetVariants(),
        limit=limit,
        on_progress=lambda done, total: progress.append((done, total)),
        on_note=said.append,
    )
    return report, said, progress


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for level, name in ((1, "000100"), (2, "000200"), (3, "000300")):
        made_sets.scannet(root, level, TRUTH, name=name)
    made_sets.diode(root, 4, TRUTH, np.ones(TRUTH.shape))
    return root


def test_every_set_that_is_here_is_measured_and_the_others_are_named(tmp_path, data):
    counting = Counting()
    report, said, progress = run(tmp_path, model(counting))
    assert [result.set for result in report.results] == ["scannet", "diode"]
    assert [(each.name, each.reason) for each in report.missing] == [
        ("nyuv2", "data not here"),
        ("kitti", "data not here"),
        ("eth3d", "data not here"),
    ]
    assert all("download" in each.told for each in report.missing)
    assert counting.seen == [0, 0, 0, 640]
    assert progress[-1] == (4, 4)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert any(note.startswith("ScanNet: AbsRel") for note in said)
    scannet = report.results[0]
    assert (scannet.num_images, scannet.num_published) == (3, 800)
    assert scannet.differences == ["3 of the 800 published images"]
    assert scannet.versions["numpy"] == np.__version__
    assert read_results(tmp_path / "results") == sorted(report.results, key=lambda r: r.set)


def test_a_done_set_is_not_measured_again(tmp_path, data):
    first, _, _ = run(tmp_path, model())
    again, said, progress = run(tmp_path, model(results=lambda *given: pytest.fail("predicted")))
    assert again.results == first.results
    assert sum("measured before" in note for note in said) == 2
    assert progress[-1] == (4, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "cd" * 32},
        {"precision": "fp16"},
        {"backend": "openvino"},
        {"device": "cuda:0"},
        {"settings": {"steps": 4}},
        {"settings": {"limit": 2}},
    ],
)
def test_everything_that_decides_the_numbers_has_a_folder_of_its_own(tmp_path, data, changes):
    run(tmp_path, model(), names=["scannet"])
    counting = Counting()
    run(tmp_path, model(counting, replace(CONTENDER, **changes)), names=["scannet"])
    assert len(counting.seen) == 3
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_inverted_disparity_is_not_called_depth(tmp_path, data):
    contender = replace(CONTENDER, task="disparity", kind="disparity")
    ready = model(lambda *_: {"disparity": TRUTH}, contender, kinds=("disparity",))
    report, _, _ = run(tmp_path, ready, names=["scannet"])
    assert "the disparity is inverted" in report.results[0].problem
    assert "direction_weight" not in report.results[0].problem


def test_a_moved_model_is_the_same(tmp_path, data):
    first, _, _ = run(tmp_path, model())
    moved = replace(CONTENDER, model="/elsewhere/my model")
    again, _, _ = run(tmp_path, model(lambda *given: pytest.fail("predicted"), moved))
    assert again.results == first.results


def test_another_set_of_images_is_measured_anew(tmp_path, data):
    run(tmp_path, model(), names=["scannet"])
    made_sets.scannet(data, 5, TRUTH, name="000400")
    report, said, _ = run(tmp_path, model(), names=["scannet"])
    assert report.results[0].num_images == 4
    assert any("is of other images of ScanNet; measured anew" in note for note in said)
    # Its rows are a beginning of what is asked for, and those images are the same.
    assert any("3 of 4 images were measured before" in note for note in said)


def test_a_damaged_result_is_said_and_made_again_from_its_rows(tmp_path, data):
    first, _, _ = run(tmp_path, model(), names=["scannet"])
    path = first.results[0].file(tmp_path / "results")
    path.write_text("{}")
    again, said, _ = run(
        tmp_path, model(lambda *given: pytest.fail("predicted")), names=["scannet"]
    )
    assert again.results[0].metrics == first.results[0].metrics
    assert any("is no result of an evaluation" in note for note in said)


def test_a_limit_spreads_over_the_set_and_is_said(tmp_path, data):
    report, _, _ = run(tmp_path, model(), names=["scannet"], limit=2)
    assert report.results[0].num_images == 2
    assert report.results[0].differences == ["2 of the 800 published images"]


def test_what_is_not_as_published_is_told(tmp_path, data):
    made_sets.kitti(data, 1, np.linspace(2, 70, 352 * 1216).reshape(352, 1216))
    ready = model(
        contender=replace(CONTENDER, precision="fp16", settings={"domain": "outdoor"}),
        fixed=lambda hw, longest: f"pictures of {hw[1]}x{hw[0]} are seen otherwise",
        resolution=512,
    )
    report, _, _ = run(tmp_path, ready, ["kitti", "diode"], SetVariants(kitti_mask="garg"))
    kitti, diode = report.results
    assert kitti.differences == [
        "pictures of 1216x352 are seen otherwise; published: the pictures' own size",
        "pictures of 1216x352 are seen with a longest edge of 512 px; published: the pictures' own size",
        "1 of the 652 published images",
        "fp16; published: fp32",
        "domain outdoor; published: indoor",
        "the garg mask; published: eigen",
    ]
    assert any(s.endswith("longest edge of 512 px; published: 640 px") for s in diode.differences)
    assert not any("garg" in clause for clause in diode.differences)


def test_both_results_of_one_model_are_measured_each_on_its_sets(tmp_path, data):
    top = data / "dsine_eval" / "nyuv2" / "test"
    made_sets.write_grey(top / "0001_img.png", (20, 24), 9)
    made_sets.write_grey(top / "0001_normal.png", (20, 24), 200)

    def both(frame, resolution, domain):
        depth = TRUTH + np.random.default_rng(int(frame[0, 0, 0])).random(TRUTH.shape)
        return {"depth": depth, "normals": np.ones((*TRUTH.shape, 3))}

    report, _, _ = run(tmp_path, model(both, kinds=("depth", "normals")))
    found = [(each.measure, each.set, each.contender.kind) for each in report.results]
    assert found == [
        ("depth", "scannet", "depth"),
        ("depth", "diode", "depth"),
        ("normals", "nyuv2", "normals"),
    ]
    # Truth is (1, 1, 1) with x to the left, so (-1, 1, 1) of ours.
    assert report.results[2].metrics["mean_deg"] == pytest.approx(
        np.degrees(np.arccos(1 / 3)), abs=0.01
    )
    assert len({each.contender.folder_name() for each in report.results}) == 2


def test_a_model_that_takes_a_domain_is_told_that_of_each_set(tmp_path, data, monkeypatch):
    outdoor = replace(SETS["depth"]["diode"], domain="outdoor")
    monkeypatch.setitem(SETS["depth"], "diode", outdoor)
    counting, settings = Counting(), {"domain": "indoor"}
    ready = replace(model(counting, replace(CONTENDER, settings=settings)), takes_domain=True)
    report, _, _ = run(tmp_path, ready, names=["scannet", "diode"])
    assert counting.domains == ["indoor", "indoor", "indoor", "outdoor"]
    assert [each.contender.settings["domain"] for each in report.results] == ["indoor", "outdoor"]
    assert not any("domain" in clause for each in report.results for clause in each.differences)
    # One that does not, a bundle, is what it is.
    fixed, _, _ = run(tmp_path, replace(ready, takes_domain=False), names=["diode"])
    assert "domain indoor; published: outdoor" in fixed.results[0].differences
    assert counting.domains[-1] is None


def test_named_sets_must_be_here_and_have_truth_for_the_model(tmp_path, data):
    with pytest.raises(DataError, match="KITTI is not in"):
        require_sets(data, ["scannet", "kitti"])
    require_sets(data, ["scannet", "diode"])
    require_sets(data, [])
    with pytest.raises(UsageError, match="diode has no truth for normals"):
        run(tmp_path, model(kinds=("normals",)), names=["diode"])
    with pytest.raises(UsageError, match="the model gives mask, which the protocol does not"):
        run(tmp_path, model(kinds=("mask",)))


def test_a_folder_without_any_set_says_what_was_expected(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"holds no set of the protocol.*nyu_labeled_extracted"):
        run(tmp_path, model())
    with pytest.raises(DataError, match=r"nyu_labeled_extracted.*dsine_eval/sintel") as found:
        require_sets(tmp_path / "data", [])
    assert len(str(found.value)) < 1000  # the command line cuts what is longer
    with pytest.raises(DataError, match="nowhere is not a folder"):
        require_sets(tmp_path / "nowhere", [])


def test_a_folder_of_damaged_sets_names_what_is_wrong_and_nothing_else(tmp_path):
    for name in ("eth3d", "diode_val"):
        archive = tmp_path / "data" / name.split("_")[0] / f"{name}.tar"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(b"half a download")
    with pytest.raises(
        DataError, match=r"eth3d.tar: not a readable.*; .*diode_val.tar: not"
    ) as found:
        run(tmp_path, model())
    assert "KITTI" not in str(found.value)


def test_a_damaged_set_that_was_not_named_is_told_and_the_others_measured(tmp_path, data):
    (data / "eth3d").mkdir()
    (data / "eth3d" / "eth3d.tar").write_bytes(b"half a download")
    report, _, _ = run(tmp_path, model())
    assert [result.set for result in report.results] == ["scannet", "diode"]
    damaged = next(each for each in report.missing if each.name == "eth3d")
    assert damaged.reason == "data damaged"
    assert "not a readable tar archive" in damaged.told
    with pytest.raises(DataError, match="not a readable tar archive"):
        run(tmp_path, model(), names=["eth3d"])


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("cpu", "the processor"),
        ("CPU, 16 threads", "the processor"),
        ("cuda", "GPU 0"),
        ("cuda:1", "GPU 1"),
        ("CUDA, device 2", "GPU 2"),
        ("NVIDIA Tester, cuda:3", "GPU 3"),
    ],
)
def test_a_result_names_the_hardware_that_its_time_is_of(
    tmp_path, data, monkeypatch, device, named
):
    monkeypatch.setattr(module, "cpu_name", lambda: "the processor")
    monkeypatch.setattr(module, "cuda_device_name", lambda index: f"GPU {index}")
    ready = model(contender=replace(CONTENDER, device=device))
    assert run(tmp_path, ready, names=["scannet"])[0].results[0].hardware == named


def test_problems_name_model_and_set(tmp_path, data):
    report, _, _ = run(tmp_path, model(lambda *given: {"depth": -TRUTH}), names=["scannet"])
    (problem,) = report.problems
    assert problem.startswith("my model (pytorch, fp32) on scannet: the depth is inverted")


def test_a_result_is_read_back_and_hostile_ones_are_sentences(tmp_path, data):
    report, _, _ = run(tmp_path, model(), names=["scannet"])
    path = report.results[0].file(tmp_path / "results")
    assert path.parent.name.startswith("my-model-")
    assert read_result(path) == report.results[0]
    table = json.loads(path.read_text())
    for key, value in (
        *(("set", "x"), ("set", "sintel"), ("num_images", 0), ("more", 1)),
        *(("metrics", {"abs_rel": "x"}), ("metrics", {"abs_rel": 0.1})),
    ):
        path.write_text(json.dumps(table | {key: value}))
        with pytest.raises(DataError, match="is no result of an evaluation"):
            read_result(path)
    with pytest.raises(DataError, match="holds no results"):
        read_results(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["..", "/", "a/../..", "\x1b[31m", "x" * 300])
def test_any_name_of_a_model_makes_one_plain_folder(name):
    folder = replace(CONTENDER, model=name).folder_name()
    assert len(folder) < 80
    assert "/" not in folder
    assert not folder.startswith(".")
    assert folder.isprintable()
