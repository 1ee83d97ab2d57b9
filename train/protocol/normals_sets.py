"""The four normals sets of the protocol, as rows.

Numbers and layouts: ``DSINE/data/datasets/*`` and ``DSINE/projects/dsine/test.py`` of E2E-FT's repository, which has
them from baegwangbin/DSINE.
"""

from e2e_deploy.names import SetName
from e2e_deploy.train.protocol.sets import EvaluationSet

_GET = (
    "{title}: part of dsine_eval.zip, in the folder on Google Drive that the README of github.com/baegwangbin/DSINE "
    "links to; extract it so that <folder>/dsine_eval/{name} is there. {licence}"
)
_PNG = "<id>_normal.png, 8 bits, v / 255 * 2 - 1"
_EXR = "<id>_normal.exr, three floats"
_PNG_MASK = "pixels whose three numbers are not all 0"
_EXR_MASK = "vectors longer than 0.5"


def _set(
    name: SetName,
    title: str,
    num_images: int,
    folders: str,
    files: str,
    mask: str,
    licence: str,
    *,
    outdoor: bool = False,
) -> EvaluationSet:
    return EvaluationSet(
        name=name,
        title=title,
        task="normals",
        num_images=num_images,
        places=(f"dsine_eval/{name}",),
        list_file=None,
        layout=f"{folders}/<id>_img.png and {files}; x left, y up, z toward the viewer",
        how_to_get=_GET.format(title=title, name=name, licence=licence),
        resolution=0,
        range_m=(0.0, float("inf")),
        mask=mask,
        alignment="none: both are directions",
        averaging="pixels",
        domain="outdoor" if outdoor else "indoor",
    )


NORMALS_SETS: tuple[EvaluationSet, ...] = (
    _set(
        "nyuv2",
        "NYUv2",
        654,
        "test",
        _PNG,
        _PNG_MASK,
        "NYU's page of Depth Dataset V2 states no licence; the normals are GeoNet's (Qi et al. 2018).",
    ),
    _set(
        "scannet",
        "ScanNet",
        300,
        "<scene>",
        _PNG,
        _PNG_MASK,
        "ScanNet has terms of use to be signed, for research alone; the normals are FrameNet's (Huang et al. 2019).",
    ),
    _set(
        "ibims",
        "iBims-1",
        100,
        "ibims",
        _EXR,
        _EXR_MASK,
        "iBims-1 (Koch et al. 2018) is for research; DSINE fitted planes to its depth.",
    ),
    _set(
        "sintel",
        "Sintel",
        1064,
        "<scene>",
        _EXR,
        _EXR_MASK,
        "MPI Sintel (Butler et al. 2012) is for research; DSINE fitted planes to its depth.",
        outdoor=True,
    ),
)
