"""Runs of bundles with several results, and of results that are neither depth nor normals."""

import json

import av
import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.kinds import KINDS
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.outputs import Outputs
from e2e_deploy.runtime.sinks.sink import CallbackSink, Painter
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.steps.chosen import Chosen
from tests.plain_bundle import HW, plain_depth, plain_results, write_plain_bundle

NAMES = ["depth", "normals"]
CAMERA = Intrinsics(40.0, 40.0, 16.0, 12.0)


@pytest.fixture
def root(tmp_path):
    return write_plain_bundle(tmp_path / "both", task="geometry")


def pattern(total=4):
    return PatternSource(*HW, fps=0, total=total)


def told(path):
    return json.loads(path.read_text())


def test_every_result_has_files_of_its_own(root, tmp_path):
    folder = tmp_path / "out"
    outs = [folder, tmp_path / "v.mp4", tmp_path / "v.mkv"]
    report = e2e.run(pattern(), root, out=outs, formats=["npy", "npz", "png16", "color"])
    assert (report.frames, [s.failure for s in report.sinks]) == (4, [""] * 5)
    for name in NAMES:
        assert len(list(folder.glob(f"*_{name}.json"))) == 4
        sidecar = told(next(folder.glob(f"*_{name}.json")))
        assert (sidecar["kind"], sidecar["task"]) == (name, "geometry")
        assert ("axes" in sidecar) == (name == "normals")
        assert sidecar["npz"]["key"] == name
        assert f"v-{name}.mp4" in {path.name for path in report.files}
    assert not (tmp_path / "v.mp4").exists()
    assert (tmp_path / "v-depth.mkv").exists()
    assert not (tmp_path / "v-normals.mkv").exists()  # three channels have no 16-bit video
    with av.open(str(tmp_path / "v-normals.mp4")) as video:
        assert video.streams.video[0].frames == 4
    first = {name: np.load(sorted(folder.glob(f"*_{name}.npy"))[0]) for name in NAMES}
    frame = next(iter(pattern())).rgb
    for name, expected in plain_results(frame, "geometry").items():
        np.testing.assert_allclose(first[name], expected, atol=1e-6)


def test_one_picture_s_files_have_the_results_in_their_names(root, tmp_path, rng):
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    e2e.run(picture, root, out=tmp_path / "r.npy")
    assert np.load(tmp_path / "r-depth.npy").shape == HW
    assert np.load(tmp_path / "r-normals.npy").shape == (*HW, 3)
    assert told(tmp_path / "r-normals.npy.json")["kind"] == "normals"


def test_a_result_never_takes_an_inputs_place(root, tmp_path, rng):
    picture = tmp_path / "r-depth.png"
    cv2.imwrite(str(picture), rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match="would take the place of"):
        e2e.run(picture, root, out=tmp_path / "r.png")


def test_sinks_and_steps_of_the_callers_get_mappings(root):
    seen = []

    def step(frame, results, facts):
        assert list(facts) == NAMES
        facts["depth"]["doubled"] = True
        return results | {"depth": 2 * results["depth"]}

    def keep(frame, results, facts):
        seen.append((frame.rgb, results, facts))

    report = e2e.run(pattern(), root, sinks=[CallbackSink(keep)], steps=[step])
    assert report.pixels == 4 * 2 * HW[0] * HW[1]
    for rgb, results, facts in seen:
        np.testing.assert_allclose(results["depth"], 2 * plain_depth(rgb), atol=1e-5)
        assert facts == {"depth": {"doubled": True}, "normals": {}}


def test_steady_is_of_the_distances_and_axes_of_the_vectors(root):
    seen = []
    sink = CallbackSink(lambda frame, results, facts: seen.append(facts))
    e2e.run(pattern(), root, sinks=[sink], steady=True, axes="optical")
    for facts in seen:
        assert set(facts["depth"]) == {"steady", "range"}
        assert set(facts["normals"]) == {"axes", "meaning"}


def test_every_distance_is_steadied_by_itself(rng):
    """Two maps of opposite course that drift apart: one stabiliser for both would cut at every frame."""
    kinds = [KINDS["depth"], KINDS["disparity"], KINDS["normals"]]
    steps = Chosen(steady=True).open(pattern(), kinds)
    depth = (np.linspace(0, 1, HW[1]) + 0.1 * rng.random(HW)).astype(np.float32)
    normals, given = rng.random((*HW, 3)), []
    (frame,) = pattern(1)
    for scale in np.float32(np.linspace(1, 1.3, 6)):
        results = {"depth": depth * scale, "disparity": 1 - depth / scale, "normals": normals}
        facts = {name: {} for name in results}
        for step in steps:
            results = step(frame, results, facts)
        assert not facts["depth"]["steady"]["cut"]
        assert not facts["disparity"]["steady"]["cut"]
        assert results["normals"] is normals
        given.append(results)
    for name, first in given[0].items():
        for results in given:
            np.testing.assert_allclose(results[name], first, atol=0.01)


@pytest.mark.parametrize("task", ["depth", "disparity"])
def test_metres_are_fitted_in_the_kinds_own_space(tmp_path, rng, task):
    bundle = write_plain_bundle(tmp_path / "b", task=task)
    picture = rng.integers(30, 226, (*HW, 3), dtype=np.uint8)
    value = plain_depth(picture)
    metres = 2 + 3 * value if task == "depth" else 1 / (0.1 + 0.5 * value)
    rows, columns = rng.integers(0, HW[0], 60), rng.integers(0, HW[1], 60)
    points = np.stack([columns, rows, metres[rows, columns]], axis=1)
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), picture[..., ::-1])
    out = tmp_path / "out"
    e2e.run(path, bundle, out=out, formats=["npy", "ply"], metric_points=points, intrinsics=CAMERA)
    np.testing.assert_allclose(np.load(out / "p_depth.npy"), metres, rtol=1e-4)
    sidecar = told(out / "p_depth.json")
    assert (sidecar["metric"], sidecar["kind"], sidecar["meaning"]) == (
        True,
        "depth",
        "metric depth",
    )
    assert sidecar["metric_fit"]["space"] == task
    assert sidecar["ply"]["points"] == HW[0] * HW[1]


def test_a_point_cloud_is_of_the_distance_alone(root, tmp_path, rng):
    picture, value = rng.integers(30, 226, (*HW, 3), dtype=np.uint8), None
    value = plain_depth(picture)
    rows, columns = rng.integers(0, HW[0], 60), rng.integers(0, HW[1], 60)
    points = np.stack([columns, rows, 2 + 3 * value[rows, columns]], axis=1)
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), picture[..., ::-1])
    metres = {"metric_points": points, "intrinsics": CAMERA}
    e2e.run(path, root, out=[tmp_path / "c.ply", tmp_path / "f"], formats=["ply"], **metres)
    assert sorted(p.name for p in tmp_path.glob("*.ply")) == ["c-depth.ply"]
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["p_depth.json", "p_depth.ply"]


@pytest.mark.parametrize("task", ["disparity", "segmentation", "matting", "lighting"])
def test_sidecars_say_what_the_numbers_are(tmp_path, rng, task):
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    bundle = write_plain_bundle(tmp_path / "b", task=task)
    out = tmp_path / "out"
    e2e.run(picture, bundle, out=out)
    for kind in open_bundle(bundle).manifest.kinds:
        sidecar = told(out / f"p_{kind.output}.json")
        assert (sidecar["kind"], sidecar["meaning"]) == (kind.name, kind.meaning)
        assert (sidecar["metric"], sidecar["range"]) == (False, [0.0, 1.0])
        assert "depth" not in sidecar["meaning"]
        stored = cv2.imread(str(out / f"p_{kind.output}.png"), cv2.IMREAD_UNCHANGED)
        values = stored * sidecar["png16"]["scale"] + sidecar["png16"]["offset"]
        given = plain_results(cv2.imread(str(picture))[..., ::-1], task)[kind.output]
        if stored.ndim == 3:
            values = values[..., ::-1]
            assert sidecar["png16"]["channels"] == "R, G, B"
        np.testing.assert_allclose(values, given, atol=2e-5)


class TestColours:
    def picture(self, task, result, facts=None):
        manifest = self.manifests[task]
        return Painter(manifest, "spectral", is_video=False)(result, facts or {})

    @pytest.fixture(autouse=True)
    def _bundles(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("kinds")
        tasks = ("depth", "disparity", "matting", "segmentation", "lighting")
        self.manifests = {
            task: open_bundle(write_plain_bundle(folder / task, task=task, note="")).manifest
            for task in tasks
        }

    def test_near_has_the_same_colour_whatever_the_kind(self):
        depth = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (50, 1))
        by_depth, by_disparity = self.picture("depth", depth), self.picture("disparity", 1 - depth)
        assert np.abs(by_depth.astype(int) - by_disparity).max() <= 2
        assert by_depth[0, 0, 0] > by_depth[0, 0, 2]  # near is red

    def test_metres_made_of_disparity_are_shown_as_depth(self):
        metres = np.tile(np.linspace(1, 9, 200, dtype=np.float32), (50, 1))
        np.testing.assert_array_equal(
            self.picture("disparity", metres, {"metric": True}), self.picture("depth", metres)
        )

    def test_masks_and_mattes_are_shown_as_they_are(self, rng):
        mask = rng.random((20, 30, 3)).astype(np.float32)
        np.testing.assert_array_equal(
            self.picture("segmentation", mask), np.rint(mask * 255).astype(np.uint8)
        )
        matte = np.float32([[0.0, 0.5, 1.0, np.nan]])
        np.testing.assert_array_equal(
            self.picture("matting", matte)[0, :, 0], np.uint8([0, 128, 255, 128])
        )

    def test_linear_light_goes_through_srgbs_curve(self):
        grey = np.full((4, 4, 3), 0.2140, np.float32)  # sRGB's middle grey, 127.5 / 255
        results = {"linear_albedo": grey, "shading": grey, "residual": grey}
        facts = {name: {} for name in results}
        assert set(np.unique(self.picture("lighting", results, facts))) == {127}

    @pytest.mark.parametrize("task", ["matting", "segmentation", "lighting"])
    def test_a_colour_map_is_for_distances(self, tmp_path, task):
        outputs = Outputs(out=(tmp_path,), colormap="turbo")
        with pytest.raises(UsageError, match="`colormap` is for depth and disparity"):
            outputs.check(self.manifests[task])
        outputs.check(self.manifests["disparity"])
