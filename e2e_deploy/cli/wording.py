"""Messages of the library name arguments in backticks, `engine="onnx"`; here they become this program's options."""

import re
import shlex

# argument: option, where it is not the same word with dashes
_OPTIONS = {
    "accept_accuracy": "--accept-accuracy",
    "address": "--address",
    "against": "--against",
    "axes": "--axes",
    "backend": "--backend",
    "batch": "--batch",
    "bundles": "--bundle",
    "camera_height_m": "--camera-height",
    "camera_pitch_deg": "--camera-pitch",
    "checkpoint": "--checkpoint",
    "colormap": "--colormap",
    "column": "--column",
    "cores": "--cores",
    "decode": "--decode",
    "device": "--device",
    "domain": "--domain",
    "dynamic": "--dynamic",
    "engine": "--engine",
    "ensemble": "--ensemble",
    "family": "--family",
    "format": "--format",
    "formats": "--save",
    "frame_size": "--frame-size",
    "frame_sizes": "--frame-size",
    "graph": "--graph",
    "intrinsics": "--intrinsics",
    "layers": "--layers",
    "level": "--opt-level",
    "kitti_mask": "--kitti-mask",
    "limit": "--limit",
    "loop": "--loop",
    "metric_points": "--metric-points",
    "normals": "--normals",
    "out": "--out",
    "outs": "--out",
    "name": "--name",
    "port": "--port",
    "queue": "--queue",
    "pad": "--pad",
    "parity": "--parity",
    "parity_every": "--parity-every",
    "precision": "--precision",
    "published_input": "--published-input",
    "protocol": "--protocol",
    "rates": "--rate",
    "reconnect_s": "--reconnect",
    "resolution": "--resolution",
    "result": "--result",
    "results": "--results",
    "rows": "--rows",
    "seconds": "--seconds",
    "seed": "--seed",
    "sets": "--sets",
    "shard": "--shard",
    "sheet": "--sheet",
    "show": "--show",
    "side_by_side": "--side-by-side",
    "spacing": "--spacing",
    "split": "--split",
    "specialised": "--specialize",
    "steps": "--steps",
    "steady": "--steady",
    "stretch": "--stretch",
    "targets": "--target",
    "task": "--task",
    "timeout_s": "--timeout",
    "topic": "--topic",
    "triton": "--triton",
    "vae": "--vae",
    "vae_part": "--vae-part",
    "val_scenes": "--val-scene",
    "view": "--view",
    "workers": "--workers",
    "workspace_bytes": "--workspace",
    "worst": "--worst",
}
_COMMANDS = {"check_data": "e2e-deploy data check"}
_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")
_REBUILD = re.compile(r"`rebuild_plans\(([\"'])(.*?)\1, backend=\"([\w-]+)\"\)`")


def _value(text: str) -> str:
    """A Python literal as it is typed in a shell: text bare, (480, 640) as 480x640, a list by its items."""
    if size := re.fullmatch(r"\[?\((\d+), (\d+)\)\]?", text):
        return f"{size[1]}x{size[2]}"
    return " ".join(shlex.quote(word.strip("\"'[] ")) for word in text.split(","))


def _option(match: re.Match[str]) -> str:
    name, value = match.groups()
    if name in _COMMANDS:
        return f"`{_COMMANDS[name]}`"
    if name not in _OPTIONS:
        return match[0]
    option = _OPTIONS[name]
    if value is None or value == "True":
        return option
    return f"--no-{option[2:]}" if value == "False" else f"{option} {_value(value)}"


def with_options(text: str) -> str:
    """The message with options in the place of arguments, and this program's commands in the place of calls."""
    text = _REBUILD.sub(
        lambda m: f"e2e-deploy verify {shlex.quote(m[2])} --backend {m[3]} --rebuild", text
    )
    return _ARGUMENT.sub(_option, text)
