"""One sample rendered and written; run as a module, a worker process that does so for every job it is told.

The picture is written last, so a sample whose picture is there is complete. See ``worker`` for the other side.
"""

import gc
import json
import sys
from dataclasses import asdict

from e2e_deploy.packages import require
from e2e_deploy.system.child import Parent
from e2e_deploy.train.data.encoding import encode_depth, encode_normals
from e2e_deploy.train.data.files import write_bytes, write_picture
from e2e_deploy.train.rendering.scenes.scenes import build_scene
from e2e_deploy.train.rendering.view import load_scene, pick_camera, render_view
from e2e_deploy.train.rendering.worker import RenderJob

DEPTH_UNIT_M = 0.001


def render_sample(job: RenderJob) -> None:
    """Render ``job`` with Mitsuba's variant that is set, in this process."""
    scene = load_scene(build_scene(job.seed))
    camera = pick_camera(scene)
    view = render_view(scene, camera, job.size_hw, samples=job.samples)
    write_picture(job.file("depth"), encode_depth(view.depth_m, DEPTH_UNIT_M))
    write_picture(job.file("normals"), encode_normals(view.normals))
    intrinsics = json.dumps(asdict(camera.intrinsics(job.size_hw)))
    write_bytes(job.file("camera"), intrinsics.encode())
    write_picture(job.file("rgb"), view.rgb)
    del scene
    gc.collect()  # Mitsuba's objects refer to each other; without this they pile up


def main() -> None:
    """The worker: variant and number of threads as arguments, then jobs."""
    parent = Parent()
    require("mitsuba", "train").set_variant(sys.argv[1])
    require("drjit", "train").set_thread_count(int(sys.argv[2]))
    for request in parent.requests():
        with parent.told_of_errors():
            height, width = request["size_hw"]
            render_sample(RenderJob(**request | {"size_hw": (height, width)}))
            parent.tell(done=True)


if __name__ == "__main__":
    main()
