"""What is done to a result between the engine and the sinks, and what sinks are told about it."""

from collections.abc import Callable
from typing import Any

from e2e_deploy.runtime.backends.layout import Result, Results
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.steady import Stabiliser

Facts = dict[str, Any]
"""What a step changed, as entries of the sidecar; ``range`` and ``units`` there describe the values from now on."""

Step = Callable[[SourceFrame, Any, Facts], Any]
"""Takes a frame, its result and the facts so far, adds to the facts, returns the new result.

Of an engine with several outputs, result and facts are mappings by their names: an array, and Facts, of each.
"""

STEADY_RANGE = (-0.5, 1.5)  # what a change of scale may make of [0, 1]; files of 16 bits hold this


def of_output(name: str, step: Step) -> Step:
    """The step for one of several outputs; the others stay as they are."""

    def one(frame: SourceFrame, results: Results, facts: Facts) -> Results:
        return results | {name: step(frame, results[name], facts[name])}

    return one


def steady() -> Step:
    """A step that keeps the scale and shift of a video's depth steady; anew in each recording of several."""
    stabiliser = Stabiliser()

    def step(frame: SourceFrame, depth: Result, facts: Facts) -> Result:
        if frame.begins:
            stabiliser.reset()
        result = stabiliser(depth)
        facts["steady"] = vars(stabiliser.last) | {"value": "scale * depth of the model + shift"}
        facts["range"] = list(STEADY_RANGE)
        return result

    return step
