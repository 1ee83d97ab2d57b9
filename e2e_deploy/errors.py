"""Every error this package raises on purpose, and the exit code each one gives the command line.

    E2EDeployError            1    something failed
    ├── UsageError            2    wrong option, wrong combination, wrong value
    ├── ParityError           3    parity or accuracy is outside its limit
    ├── UnavailableError      4    hardware, driver or package is missing here
    │   └── PlanMismatchError    a bundle's plan is not for this GPU or library; a rebuild helps
    └── InputError            5    an input is missing, unreadable, damaged or lost
        ├── CheckpointError        a model folder or hub id
        ├── BundleError            a bundle folder
        │   └── PlanDamagedError     a plan in it; a rebuild helps
        ├── SourceError            a picture, a video, a camera, a stream
        └── DataError              a data set

A message says what was given, what was expected and how to fix it, in one sentence where that is possible.
"""

from e2e_deploy.system.text import clean


class E2EDeployError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""

    exit_code = 1


class UsageError(E2EDeployError):
    """An argument or option that cannot be used as given."""

    exit_code = 2


class ParityError(E2EDeployError):
    """A backend is further from its reference than the limits table allows."""

    exit_code = 3


class UnavailableError(E2EDeployError):
    """Hardware, a driver or a package that was asked for is not here."""

    exit_code = 4


class PlanMismatchError(UnavailableError):
    """A bundle has no plan for this GPU and library version, and one could be built from its graph."""


class InputError(E2EDeployError):
    """An input is missing, unreadable, damaged or was lost."""

    exit_code = 5


class CheckpointError(InputError):
    """A checkpoint folder or hub id cannot be used."""


class BundleError(InputError):
    """A bundle folder cannot be trusted or read."""


class PlanDamagedError(BundleError):
    """A plan of a bundle is damaged or was built from another graph; one could be built from the bundle's own."""


class SourceError(InputError):
    """A picture, video, camera or stream cannot be read."""


class DataError(InputError):
    """A data set is missing files or holds damaged ones."""


_MEMORY = (
    *("Available memory of", "Failed to allocate", "bad_alloc", "bad allocation"),
    *("out of memory", "can't allocate memory"),
)


def failed(what: str, error: Exception, kind: type[E2EDeployError]) -> E2EDeployError:
    """A library's error as ours: ``kind``, or UnavailableError where memory did not do.

    Those of ONNX Runtime share no public base class, and neither its nor torch's say in their type that it was memory.
    """
    said = clean(str(error))
    if isinstance(error, MemoryError) or any(word in str(error) for word in _MEMORY):
        return UnavailableError(
            f"{what}, for it needs more memory than is free here: export for smaller pictures or another precision, "
            f"or free some ({said})"
        )
    return kind(f"{what}: {said}")
