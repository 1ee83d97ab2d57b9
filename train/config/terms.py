"""Which terms fit which kind of result, and which were published for it; knows no torch."""

from collections.abc import Mapping
from dataclasses import asdict

from e2e_deploy.kinds import KINDS
from e2e_deploy.names import ResultKind
from e2e_deploy.train.config.settings import TermsConfig

FITTED = ("metres", "relative")
"""Of depth against metric truth, by a fit of scale and shift that may be negative."""

TERMS = (*FITTED, "mse", "l1", "ssi", "gradient", "angle", "open_angle")

_BY_FORM: dict[str, tuple[str, ...]] = {
    "distance": ("mse", "l1", "ssi", "gradient"),
    "vectors": ("mse", "l1", "angle", "open_angle"),
    "picture": ("mse", "l1", "gradient"),
}

PUBLISHED: dict[ResultKind, TermsConfig] = {
    "depth": TermsConfig(metres=1.0),
    "disparity": TermsConfig(mse=1.0, ssi=0.5, gradient=2.0),
    "normals": TermsConfig(angle=1.0),
    "mask": TermsConfig(mse=1.0),
    "matte": TermsConfig(mse=1.0),
}
"""E2E-FT's (arXiv 2409.11355) for depth and normals, else those of GenPercept's training code (arXiv 2403.06090)."""


def fitting_terms(kind: ResultKind) -> tuple[str, ...]:
    """Terms that a result of ``kind`` can have."""
    return (*_BY_FORM[KINDS[kind].form], *(FITTED if kind == "depth" else ()))


def weights_of(kind: ResultKind, config: TermsConfig | None) -> Mapping[str, float]:
    """Term to weight, for those of the config that fit ``kind`` and count; without a config the published ones."""
    weights = asdict(PUBLISHED[kind] if config is None else config)
    return {term: weights[term] for term in TERMS if term in fitting_terms(kind) and weights[term]}


def fits_either_way(config: TermsConfig | None) -> bool:
    """Whether a loss of depth with these terms has one of ``FITTED``."""
    return any(term in weights_of("depth", config) for term in FITTED)
