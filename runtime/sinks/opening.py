"""What an output that takes all results is opened for."""

from dataclasses import dataclass

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.kinds import Kind
from e2e_deploy.names import Colormap
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sources.source import Source


@dataclass(frozen=True)
class Opening:
    """What an output is opened for.

    Attributes:
        manifest: the bundle's.
        source: whose frames come.
        intrinsics: of them, as the user says; None leaves it to the frames.
        colormap: of distances.
        side_by_side: the frame beside its results.
        is_metric: distances are in metres.
        limit: of frames that come; None is all.
    """

    manifest: Manifest
    source: Source
    intrinsics: Intrinsics | None
    colormap: Colormap
    side_by_side: bool
    is_metric: bool = False
    limit: int | None = None

    def painter(self, kind: Kind | None = None) -> Painter:
        """A painter of one kind, or of all results side by side."""
        return Painter(self.manifest, self.colormap, is_video=self.source.is_video, kind=kind)
