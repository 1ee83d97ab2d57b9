"""Pictures for plain clients: the file of one in, the 16-bit PNG of its result out."""

from typing import Any

import numpy as np

from e2e_deploy.errors import E2EDeployError, SourceError, UnavailableError, UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.serve.limits import RefusedError
from e2e_deploy.runtime.serve.tensors import Frames, bad
from e2e_deploy.runtime.sinks.sink import SixteenBits
from e2e_deploy.runtime.sources.picture_file import decode_picture
from e2e_deploy.system.opencv import cv2
from e2e_deploy.system.text import clean


def open_picture(data: bytes, engine_hw: tuple[int, int]) -> tuple[Frames, Fit]:
    """A picture's file as a frame of the engine [1, H, W, 3], and the way back to its own size.

    Raises:
        RefusedError: 415, not a picture that can be decoded; 400, of a size that cannot be processed.
    """
    try:
        picture = decode_picture(data, "the picture")
        fit = Fit((picture.shape[0], picture.shape[1]), engine_hw)
    except (SourceError, UnavailableError) as error:
        raise RefusedError(415, clean(str(error))) from None
    except UsageError as error:
        raise bad(str(error)) from None
    return np.ascontiguousarray(fit.to_engine(picture))[None], fit


def as_png(result: Result, fit: Fit, kind: Kind) -> tuple[bytes, dict[str, Any]]:
    """A result of the engine as a 16-bit PNG at the picture's size, and what is to be told of its numbers."""
    bits = SixteenBits(*kind.value_range)
    stored = bits.store(fit.to_source(result, kind.form))
    done, data = cv2.imencode(".png", stored if stored.ndim == 2 else stored[..., ::-1])
    if not done:
        raise E2EDeployError("the result could not be encoded as PNG")
    told = {"output": kind.output, "meaning": kind.meaning, "units": kind.units, **bits.told()}
    return data.tobytes(), told
