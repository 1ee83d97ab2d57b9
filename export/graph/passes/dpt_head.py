"""The pass over a DPT head: projections before the doublings, where there are a quarter of the pixels.

Changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic): a 1x1 convolution
acts on channels, bilinear weights on pixels, and as these sum to one the bias passes through.
"""

from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.model.networks.dpt_head import FusionLayer


def project_before_doubling(model: SpecialisedModel) -> None:
    """Every fusion layer of a head projects before it doubles."""
    for module in model.modules():
        if isinstance(module, FusionLayer):
            module.projects_first = True
