"""The one step of a checkpoint's noise schedule: its timestep, and what x0 is made of there. No torch of its own."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e_deploy.errors import CheckpointError
from e2e_deploy.packages import require
from e2e_deploy.system.text import clean

MAX_ALPHA_BAR = 0.9999
"""Above it the last step of training adds no noise worth its name, and nothing was learned from it."""


@dataclass(frozen=True)
class OneStep:
    """x0 = ``from_xt`` * x_t + ``from_output`` * network output, at ``timestep``."""

    timestep: int
    from_xt: float
    from_output: float


def last_step(scheduler_config: Mapping[str, Any]) -> OneStep:
    """The step of a saved scheduler at its noisiest timestep, where one that takes a single step is.

    Raises:
        CheckpointError: as terminal_alpha_bar and x0_coefficients.
    """
    timestep, alpha_bar = terminal_alpha_bar(scheduler_config)
    kind = str(scheduler_config.get("prediction_type") or "epsilon")
    from_xt, from_output = x0_coefficients(kind, alpha_bar)
    if not _is_consistency(scheduler_config):
        return OneStep(timestep, from_xt, from_output)
    scaling = scheduler_config.get("timestep_scaling")
    skip, out = boundary_scalings(timestep, 10.0 if scaling is None else float(scaling))
    return OneStep(timestep, skip + out * from_xt, out * from_output)


def boundary_scalings(timestep: int, timestep_scaling: float) -> tuple[float, float]:
    """(c_skip, c_out) of a latent consistency model, whose result is c_skip * x_t + c_out * x0; at t = 0 that is x_t.

    Luo et al., arXiv 2310.04378, section 4.1, with the 0.5 of EDM for the standard deviation of data.
    """
    scaled, deviation = timestep * timestep_scaling, 0.5
    power = scaled**2 + deviation**2
    return deviation**2 / power, scaled / math.sqrt(power)


def _is_consistency(scheduler_config: Mapping[str, Any]) -> bool:
    return scheduler_config.get("_class_name") == "LCMScheduler"


def x0_coefficients(prediction_type: str, alpha_bar: float) -> tuple[float, float]:
    """(a, b) such that x0 = a * x_t + b * network output, at cumulative signal level ``alpha_bar`` in [0, 1].

    v-prediction: sqrt(ab), -sqrt(1 - ab); epsilon: 1 / sqrt(ab), -sqrt(1 - ab) / sqrt(ab); sample: 0, 1
    (Salimans and Ho, arXiv 2202.00512, appendix D).

    Raises:
        CheckpointError: unknown prediction type, or epsilon at zero terminal SNR, where x0 is undefined.
    """
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)
    if prediction_type == "v_prediction":
        return signal, -noise
    if prediction_type == "sample":
        return 0.0, 1.0
    if prediction_type == "epsilon":
        if signal < 1e-6:
            raise CheckpointError(
                "the scheduler predicts epsilon at zero terminal SNR; x0 cannot be recovered in one step"
            )
        return 1.0 / signal, -noise / signal
    raise CheckpointError(
        f"the scheduler's prediction_type is {prediction_type!r}; expected v_prediction, epsilon or sample"
    )


def terminal_alpha_bar(scheduler_config: Mapping[str, Any]) -> tuple[int, float]:
    """(T, alpha_bar at T) of a saved scheduler, T its noisiest timestep; its timestep spacing is never used.

    T is num_train_timesteps - 1; of a consistency model the last of the ``original_inference_steps`` that it was
    distilled at, which is the same where their number divides the other.

    Raises:
        CheckpointError: the config describes no noise schedule, as those of flow matching, or one that clips latents.
    """
    diffusers = require("diffusers", "export")
    name, settings = _settings(scheduler_config)
    if "beta_start" not in settings and settings.get("trained_betas") is None:
        raise CheckpointError(
            f"scheduler_config.json is a {name}'s, which has no betas, so its x0 is made in another way; expected a "
            "scheduler with betas, such as DDIMScheduler"
        )
    try:
        if _is_consistency(scheduler_config):
            scheduler = diffusers.LCMScheduler.from_config(dict(scheduler_config))
            scheduler.set_timesteps(1)
            timestep = int(scheduler.timesteps[0])
        else:
            scheduler = diffusers.DDIMScheduler.from_config(dict(scheduler_config))
            timestep = int(scheduler.config.num_train_timesteps) - 1
        alpha_bar = float(scheduler.alphas_cumprod.double()[timestep])
    except Exception as error:
        raise CheckpointError(
            f"scheduler_config.json describes no noise schedule: {' '.join(str(error).split())[:300]}"
        ) from None
    if not 0.0 <= alpha_bar < MAX_ALPHA_BAR:
        raise CheckpointError(
            f"scheduler_config.json describes no noise schedule: {alpha_bar:.6g} of the signal's power is left at the "
            f"last step; expected 0 to {MAX_ALPHA_BAR}"
        )
    for switch in ("clip_sample", "thresholding"):
        if settings.get(switch):
            how = "sets" if switch in scheduler_config else f"is silent, and so {name} sets"
            raise CheckpointError(
                f"scheduler_config.json {how} {switch}, which cuts off latents outside a range; depth and "
                "normals models are trained without: set it to false if that is true of this one"
            )
    return timestep, alpha_bar


def _settings(scheduler_config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class of a saved scheduler, and its settings: where the config is silent, as diffusers has them."""
    diffusers = require("diffusers", "export")
    name = clean(str(scheduler_config.get("_class_name") or "DDIMScheduler"), 80)
    known = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not inspect.isclass(known):  # a checkpoint's own
        known = diffusers.DDIMScheduler
    parameters = inspect.signature(known.__init__).parameters
    return name, {key: each.default for key, each in parameters.items()} | dict(scheduler_config)
