"""The node's parameters: what each is, what it may be, and when it may change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e_deploy.names import BACKEND_CHOICES

RELIABILITIES = ("best_effort", "reliable")
TRANSPORTS = ("raw", "compressed")
METRICS = ("none", "ground", "points")  # in YAML a bare off is a bool
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: in ROS.
        default: whose type is the parameter's.
        description: for ``ros2 param describe``.
        span: (lowest, highest) of a number.
        choices: of a text.
        live: it may change while the node is configured.
    """

    name: str
    default: bool | int | float | str
    description: str
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def refusal(self, value: Any) -> str:
        """Why ``value`` cannot be; empty if it can."""
        if type(value) is not type(self.default):
            return f"{self.name} is {_WORDS[type(self.default)]}, not {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}; it is one of {', '.join(self.choices)}"
        if self.span and not self.span[0] <= float(value) <= self.span[1]:
            return f"{self.name} is {value:g}; it is from {self.span[0]:g} to {self.span[1]:g}"
        return ""


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("bundle", "", "folder of the bundle; empty: the small one that e2e-deploy has"),
        Parameter("backend", "auto", "what runs the bundle", choices=BACKEND_CHOICES),
        Parameter("device", "auto", "auto, cpu, cuda, cuda:N and what else the backend takes"),
        Parameter(
            "frame_size", "", "HEIGHTxWIDTH of a bundle that holds several; empty: its first"
        ),
        Parameter("image_transport", "raw", "image, or image/compressed", choices=TRANSPORTS),
        Parameter("prefix", "", "of the topics; empty: e2e_deploy beside the picture's topic"),
        Parameter(
            "input_reliability",
            "best_effort",
            "QoS of the subscriptions; best_effort takes from every publisher",
            choices=RELIABILITIES,
        ),
        Parameter(
            "output_reliability",
            "best_effort",
            "QoS of the results; reliable reaches every subscriber",
            choices=RELIABILITIES,
        ),
        Parameter("qos_depth", 5, "messages that the middleware keeps", span=(1, 100)),
        Parameter(
            "metric",
            "none",
            "metres: none, from flat ground below the camera, or from known points of the picture",
            choices=METRICS,
        ),
        Parameter("publish_picture", False, "the picture that a result is of, too"),
        Parameter("publish_points", False, "a point cloud, where depth is metric"),
        Parameter("publish_millimetres", False, "metric depth in 16 bits (16UC1), too"),
        Parameter("diagnostics_period_s", 1.0, "seconds between diagnostics", span=(0.1, 60.0)),
        Parameter("steady", False, "keep the scale and shift of distances steady", live=True),
        Parameter(
            "camera_height_m",
            1.0,
            "above flat ground, for metric: ground",
            span=(0.01, 1000.0),
            live=True,
        ),
        Parameter(
            "camera_pitch_deg",
            0.0,
            "by which the camera looks down, for metric: ground",
            span=(-89.0, 89.0),
            live=True,
        ),
        Parameter(
            "metric_points", "", "file of column, row, metres, for metric: points", live=True
        ),
        Parameter("intrinsics", "", "fx,fy,cx,cy over what camera_info says", live=True),
        Parameter(
            "parity_every",
            0,
            "compare every Nth frame with PyTorch, and the stored ones at the start; 0: never",
            span=(0, 1_000_000),
            live=True,
        ),
    )
}

DEFAULTS: dict[str, Any] = {name: each.default for name, each in PARAMETERS.items()}


def refusal(changes: Mapping[str, Any], *, configured: bool) -> str:
    """Why these changes cannot be made; empty if they can. Parameters of others are theirs to judge."""
    for name, value in changes.items():
        if (parameter := PARAMETERS.get(name)) is None:
            continue
        if configured and not parameter.live:
            return f"{name} cannot change while the node is configured: clean it up first"
        if why := parameter.refusal(value):
            return why
    return ""
