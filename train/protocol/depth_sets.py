"""The five depth sets of the protocol, as rows.

Numbers: E2E-FT's ``Marigold/src/dataset/*_dataset.py``, ``Marigold/config/dataset/*.yaml`` and
``experiments/depth/eval_args``.
"""

from e2e_deploy.train.protocol.sets import EvaluationSet

_FROM = "https://share.phys.ethz.ch/~pf/bingkedata/marigold/evaluation_dataset/"
_GET = (
    "{title}: download {archive} from "
    + _FROM
    + "{archive} (Marigold's selection of it) and put it at "
    "<folder>/{archive}, as it is or extracted into the folder it is in{lists}. {licence}"
)
_FIT = "least-squares scale and shift per image over its valid pixels"


def _get(title: str, archive: str, list_file: str, licence: str) -> str:
    lists = f"; where {list_file} (data_split of Marigold's repository) lies beside it, that list is followed"
    return _GET.format(title=title, archive=archive, lists=lists, licence=licence)


DEPTH_SETS: tuple[EvaluationSet, ...] = (
    EvaluationSet(
        name="nyuv2",
        title="NYUv2",
        task="depth",
        num_images=654,
        places=("nyuv2/nyu_labeled_extracted.tar", "nyuv2/nyu_labeled_extracted", "nyuv2"),
        list_file="filename_list_test.txt",
        layout="test/<scene>/rgb_<id>.png, 640x480, and depth_<id>.png, 16 bits, millimetres, not filled",
        how_to_get=_get(
            "NYUv2",
            "nyuv2/nyu_labeled_extracted.tar",
            "filename_list_test.txt",
            "NYU's page of Depth Dataset V2 states no licence; cite Silberman et al. 2012.",
        ),
        resolution=0,
        range_m=(1e-3, 10.0),
        mask="raw depth inside the range, in rows 45 to 470 and columns 41 to 600 (Eigen's crop)",
        alignment=_FIT,
        averaging="images",
    ),
    EvaluationSet(
        name="kitti",
        title="KITTI",
        task="depth",
        num_images=652,
        places=(
            "kitti/kitti_eigen_split_test.tar",
            "kitti/kitti_eigen_split_test",
            "kitti",
        ),
        list_file="eigen_test_files_with_gt.txt",
        layout=(
            "<date>/<drive>/image_02/data/<id>.png and <drive>/proj_depth/groundtruth/image_02/<id>.png, 16 bits, "
            "1/256 metre"
        ),
        how_to_get=_get(
            "KITTI, Eigen's test split",
            "kitti/kitti_eigen_split_test.tar",
            "eigen_test_files_with_gt.txt",
            "KITTI is CC BY-NC-SA 3.0 by its site; cite Geiger et al. 2012 and Eigen et al. 2014.",
        ),
        resolution=0,
        range_m=(1e-5, 80.0),
        mask=(
            "cut to 1216x352 at the bottom and the middle; depth inside the range, in rows 0.3324324 to 0.91351351 "
            "and columns 0.0359477 to 0.96405229 of it (Eigen's mask)"
        ),
        alignment=_FIT,
        averaging="images",
        domain="indoor",  # as published: the scripts name none, and the default is indoor
    ),
    EvaluationSet(
        name="eth3d",
        title="ETH3D",
        task="depth",
        num_images=454,
        places=("eth3d/eth3d.tar", "eth3d/eth3d", "eth3d"),
        list_file="eth3d_filename_list.txt",
        layout=(
            "rgb/<scene>/images/dslr_images/<id>.JPG, 6048x4032, and "
            "depth/<scene>_dslr_depth/<scene>/ground_truth_depth/dslr_images/<id>.JPG, which holds float32 metres"
        ),
        how_to_get=_get(
            "ETH3D, high-resolution multi-view training scenes",
            "eth3d/eth3d.tar",
            "eth3d_filename_list.txt",
            "ETH3D is CC BY-NC-SA 4.0 by its site; cite Schops et al. 2017.",
        ),
        resolution=756,
        range_m=(1e-5, float("inf")),
        mask="depth above 1e-5 m; infinite is unknown",
        alignment=_FIT + ", on 1024 of the 6048 columns",
        align_longest_px=1024,
        averaging="images",
    ),
    EvaluationSet(
        name="scannet",
        title="ScanNet",
        task="depth",
        num_images=800,
        places=(
            "scannet/scannet_val_sampled_800_1.tar",
            "scannet/scannet_val_sampled_800_1",
            "scannet",
        ),
        list_file="scannet_val_sampled_list_800_1.txt",
        layout="<scene>/color/<id>.jpg and <scene>/depth/<id>.png, 16 bits, millimetres, both 640x480",
        how_to_get=_get(
            "ScanNet, 800 pictures of its validation scenes",
            "scannet/scannet_val_sampled_800_1.tar",
            "scannet_val_sampled_list_800_1.txt",
            "ScanNet has terms of use to be signed, for research alone; cite Dai et al. 2017.",
        ),
        resolution=0,
        range_m=(1e-3, 10.0),
        mask="depth inside the range",
        alignment=_FIT,
        averaging="images",
    ),
    EvaluationSet(
        name="diode",
        title="DIODE",
        task="depth",
        num_images=771,
        places=("diode/diode_val.tar", "diode/diode_val", "diode"),
        list_file="diode_val_all_filename_list.txt",
        layout=(
            "indoors|outdoor/<scene>/<scan>/<id>.png, 1024x768, <id>_depth.npy in metres and <id>_depth_mask.npy"
        ),
        how_to_get=_get(
            "DIODE, validation, 325 indoors and 446 outdoors",
            "diode/diode_val.tar",
            "diode_val_all_filename_list.txt",
            "DIODE is under the MIT licence by its site; cite Vasiljevic et al. 2019.",
        ),
        resolution=640,
        range_m=(0.6, 350.0),
        mask="the mask that comes with it; its range only clips the prediction",
        alignment=_FIT,
        averaging="images",
    ),
)
