"""Depth sets in the official layouts, made small, with a predictor whose error follows from a formula by hand.

Every picture is one grey level, which is how ``Known`` knows it. Truth is ``NEAR`` in the upper half of what counts and
``FAR`` in the lower; a prediction is 0 and 1 there, plus and minus ``wobble`` in every other column.
"""

import tarfile
from pathlib import Path

import cv2
import numpy as np

KITTI_TOP, KITTI_LEFT = 375 - 352, (1242 - 1216) // 2


def by_hand(near, far, wobble, low, high):
    """AbsRel and the share with a ratio below 1.25 of that prediction, least-squares aligned and clipped.

    The four groups of pixels are equally many: x = -w, +w where y = near, and 1 - w, 1 + w where y = far. So mean x is
    1/2, its variance 1/4 + w^2, its covariance with y (far - near) / 4.
    """
    scale = (far - near) / 4 / (1 / 4 + wobble**2)
    errors, ratios = [], []
    for x, y in ((-wobble, near), (wobble, near), (1 - wobble, far), (1 + wobble, far)):
        aligned = min(max((near + far) / 2 + scale * (x - 1 / 2), low), high)
        errors.append(abs(aligned - y) / y)
        ratios.append(max(aligned / y, y / aligned) < 1.25)
    return sum(errors) / 4, sum(ratios) / 4


class Known:
    """Predicts by the grey level of the picture; ``seen`` are the shapes that it was shown."""

    def __init__(self, predictions):
        self.predictions, self.seen = predictions, []

    def __call__(self, frame):
        self.seen.append(frame.shape)
        return self.predictions[int(frame[0, 0, 0])]


def halves(shape, rows, columns, near, far, wobble, outside_truth, outside_prediction):
    """Truth and prediction [H, W]: as above in that part, which has even sides, and constant outside."""
    truth = np.full(shape, float(outside_truth))
    prediction = np.full(shape, float(outside_prediction))
    middle = (rows.start + rows.stop) // 2
    for part, depth, value in (
        (slice(rows.start, middle), near, 0.0),
        (slice(middle, rows.stop), far, 1.0),
    ):
        truth[part, columns] = depth
        prediction[part, columns] = value - wobble
        prediction[part, columns.start + 1 : columns.stop : 2] = value + wobble
    return truth, prediction


def write_grey(path: Path, shape, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*shape, 3), level, np.uint8)
    done, content = cv2.imencode(path.suffix.lower(), picture)
    assert done
    path.write_bytes(content.tobytes())


def write_png16(path: Path, depth_m, units_per_m):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(depth_m * units_per_m).astype(np.uint16))


def nyuv2(root, level, truth, scene="kitchen_0004", name="0001", folder="test"):
    top = root / "nyuv2" / folder / scene
    write_grey(top / f"rgb_{name}.png", truth.shape, level)
    write_png16(top / f"depth_{name}.png", truth, 1000)
    write_png16(top / f"filled_{name}.png", np.full(truth.shape, 3.0), 1000)


def kitti(root, level, truth, name="0000000069", drive="2011_09_26_drive_0002_sync"):
    """``truth`` is of the cut, 352 x 1216; around it lies depth of 7 m. None: without truth."""
    top = root / "kitti" / "kitti_eigen_split_test"
    write_grey(top / f"2011_09_26/{drive}/image_02/data/{name}.png", (375, 1242), level)
    if truth is not None:
        full = np.full((375, 1242), 7.0)
        full[KITTI_TOP:, KITTI_LEFT : KITTI_LEFT + 1216] = truth
        write_png16(top / f"{drive}/proj_depth/groundtruth/image_02/{name}.png", full, 256)


def eth3d(root, level, truth, scene="office", name="DSC_0219"):
    top = root / "eth3d"
    write_grey(top / f"rgb/{scene}/images/dslr_images/{name}.JPG", truth.shape, level)
    path = top / f"depth/{scene}_dslr_depth/{scene}/ground_truth_depth/dslr_images/{name}.JPG"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(truth.astype("<f4").tobytes())


def scannet(root, level, truth, scene="scene0406_02", name="000300"):
    top = root / "scannet" / "scannet_val_sampled_800_1" / scene
    write_grey(top / f"color/{name}.jpg", truth.shape, level)
    write_png16(top / f"depth/{name}.png", truth, 1000)


def diode(root, level, truth, mask, name="00021_00189_indoors_200_010", where="indoors"):
    top = root / "diode" / where / "scene_00021" / "scan_00189"
    write_grey(top / f"{name}.png", truth.shape, level)
    np.save(top / f"{name}_depth.npy", truth[..., None].astype(np.float32))
    np.save(top / f"{name}_depth_mask.npy", mask.astype(np.float64))


def packed(folder: Path, archive: Path) -> Path:
    """The folder as a tar archive whose names begin with ``./``, as the published ones are; the folder goes away."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(archive, "w") as tar:
        for path in files:
            tar.add(path, "./" + path.relative_to(folder).as_posix())
    for path in files:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path != archive and path.is_dir():
            path.rmdir()
    return archive
