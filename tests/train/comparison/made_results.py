"""Results as an evaluation writes them, with made numbers."""

from e2e_deploy.train.protocol.result import Contender, SetResult

WEIGHTS = "a" * 64


def contender(model="m", backend="pytorch", precision="fp32", **given):
    return Contender(
        **{
            "model": model,
            "identity": "b" * 64,
            "checkpoint": WEIGHTS,
            "family": "e2e-ft",
            "task": "depth",
            "kind": "depth",
            "backend": backend,
            "device": "cpu",
            "precision": precision,
            "settings": {},
        }
        | given
    )


def result(who, name="nyuv2", pair=(5.0, 97.0), ms=100.0, **given):
    """``pair`` as the published tables print it."""
    first, second = pair
    normals = who.kind == "normals"
    metrics = (
        {"mean_deg": first, "below_11_25": second / 100}
        if normals
        else {"abs_rel": first / 100, "delta1": second / 100}
    )
    return SetResult(
        **{
            "protocol": "e2e-ft",
            "measure": "normals" if normals else "depth",
            "set": name,
            "contender": who,
            "num_images": 654,
            "num_published": 654,
            "pictures": "c" * 64,
            "left_out": {},
            "metrics": metrics,
            "ms_per_image": ms,
            "differences": [],
            "problem": None,
            "versions": {"python": "3.11.7"},
            "measured_at": "2026-11-27T07:00:00+00:00",
            "hardware": "A CPU",
        }
        | given
    )
