"""What each option of each verb does, as commands whose outcomes differ or are refused; test_every_option.py runs them.

The commands name the inputs that are made there: bundles ``depth`` and ``normals``, ``photo.png``, ``film.mp4``, and
``log.mcap`` of two cameras.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Changes:
    """With ``given`` the command ``base`` ends otherwise than without."""

    given: list[str]
    base: list[str]
    double: str = ""
    """A module whose functions are only recorded."""
    answer: bool = False
    """Whether they return a report of nothing; else they end the command."""


@dataclass(frozen=True)
class Refused:
    """The command is wrong usage, and the sentence says so."""

    command: list[str]
    said: str


RUN = ["run", "photo.png", "--bundle", "depth"]
TO = [*RUN, "--out", "o"]
FILM = ["run", "film.mp4", "--bundle", "depth"]
GROUND = ["--camera-height", "1.5", "--intrinsics", "20,20,16,4"]
VERIFY = ["verify", "depth", "--backend", "onnxruntime"]
BENCH = ["bench", "depth", "--frames", "2"]
NO_PLAN = ["export", "--engine", "onnx"]
BULK = ["bulk", "one-photo", "--bundle", "depth", "--out", "o"]
IN_BULK = "e2e_deploy.runtime.bulk.bulk"
BENCHED = "e2e_deploy.runtime.checks.bench"
EXPORTER = "e2e_deploy.export.exporter"
EVALUATE = "e2e_deploy.verbs.evaluate"
PROTOCOL = "e2e_deploy.verbs.protocol"
BY_PROTOCOL = ["eval", "depth", "data", "--protocol", "e2e-ft"]
TRAIN = "e2e_deploy.train.training"
DOCTOR = "e2e_deploy.verbs.doctor"
DEMO = "e2e_deploy.verbs.demo"
PREPARE = "e2e_deploy.train.preparation.prepare"
PACK = "e2e_deploy.train.preparation.pack"
RENDER = "e2e_deploy.train.rendering.render"
CHECK = "e2e_deploy.train.data.check"
SERVER = "e2e_deploy.runtime.serve.server"
SERVE = ["serve", "depth"]
COMPARE = "e2e_deploy.train.comparison.results"


def called(module, base, *given):
    """Another call of the public function in ``module``."""
    return [Changes(list(given), base, module)]


CASES = {
    "run": {
        "--bundle": [Changes(["--bundle", "normals"], TO)],
        "--backend": [Changes(["--backend", "tensorrt"], TO)],
        "--device": [
            Changes(["--device", "cuda:99"], TO),
            Refused([*TO, "--backend", "tensorrt", "--device", "cpu"], "runs on a GPU only"),
        ],
        "--checkpoint": [Refused([*TO, "--checkpoint", "x"], "nothing here runs in PyTorch")],
        "--out": [
            Changes(["--out", "p.npy"], RUN),
            Refused([*RUN, "--out", "foxglove:http"], "--out foxglove:http names no port"),
        ],
        "--save": [
            Changes(["--save", "npy"], TO),
            Refused([*RUN, "--view", "0", "--save", "npy"], "--save needs --out"),
            Refused([*RUN, "--show", "--save", "npy"], "--save needs --out"),
        ],
        "--side-by-side": [
            Changes(["--side-by-side"], [*FILM, "--out", "o.mp4"]),
            Refused([*TO, "--side-by-side"], "--side-by-side needs --out with a path ending in"),
        ],
        "--colormap": [
            Changes(["--colormap", "turbo"], TO),
            Refused([*RUN, "--out", "p.npy", "--colormap", "turbo"], "has no effect"),
            Refused(
                ["run", "photo.png", "--bundle", "normals", "--out", "o", "--colormap", "turbo"],
                "--colormap is for depth",
            ),
        ],
        "--axes": [
            Changes(
                ["--axes", "optical"], ["run", "photo.png", "--bundle", "normals", "--out", "o"]
            ),
            Refused([*TO, "--axes", "optical"], "--axes is for normals"),
            *(
                Refused(
                    ["run", "film.mp4", "--bundle", "normals", "--out", out, "--axes", "optical"],
                    "--axes optical has no effect here",
                )
                for out in ("o.mp4", "o.mcap")
            ),
        ],
        "--steady": [
            Changes(["--steady"], [*FILM, "--out", "o", "--save", "npy"]),
            Refused([*TO, "--steady"], "--steady is for videos"),
        ],
        "--metric-points": [Changes(["--metric-points", "points.csv"], TO)],
        "--camera-height": [
            Changes(["--camera-height", "3"], [*TO, *GROUND]),
            Refused([*TO, "--camera-height", "3"], "--camera-height needs --intrinsics"),
        ],
        "--camera-pitch": [
            Changes(["--camera-pitch", "30"], [*TO, *GROUND]),
            Refused([*TO, "--camera-pitch", "30"], "--camera-pitch needs --camera-height"),
        ],
        "--intrinsics": [
            Changes(["--intrinsics", "20,20,16,-40"], [*TO, *GROUND]),
            Refused([*TO, "--intrinsics", "20,20,16,4"], "--intrinsics has no effect here"),
            Refused(
                [*TO, "--intrinsics", "20,20,16,4", "--metric-points", "points.csv"],
                "--intrinsics has no effect here",
            ),
        ],
        "--show": [Changes(["--show"], TO)],  # an error here, where no display is
        "--view": [Changes(["--view", "0"], TO)],
        "--topic": [
            Changes(["--topic", "/rear/image_raw"], ["run", "log.mcap", "--bundle", "depth"]),
            Refused([*TO, "--topic", "/camera/image_raw"], "--topic is for logs and data sets"),
        ],
        "--limit": [Changes(["--limit", "1"], [*FILM, "--out", "o", "--save", "npy"])],
        "--parity-every": [Changes(["--parity-every", "1"], TO)],
        "--parity": [
            Refused([*TO, "--parity", "strict"], "--parity strict needs --parity-every"),
            Refused([*TO, "--parity", "warn"], "--parity warn needs --parity-every"),
        ],
        "--timeout": [
            Refused([*TO, "--timeout", "3"], "--timeout is for streams"),
            Refused([*FILM, "--timeout", "3"], "--timeout is for streams"),
            Refused(["run", "77", "--bundle", "depth", "--timeout", "3"], "camera 77 is none"),
        ],
        "--reconnect": [
            Refused([*TO, "--reconnect", "3"], "--reconnect is for streams and cameras"),
            Refused(
                ["run", "test:?frames=1", "--bundle", "depth", "--reconnect", "3"],
                "--reconnect is for streams and cameras",
            ),
        ],
        "--decode": [Refused([*TO, "--decode", "gpu"], "--decode gpu is for video files")],
        "--rebuild": [
            Refused([*TO, "--rebuild"], "holds no plan that could be built again"),
            Refused([*TO, "--rebuild", "--backend", "torch"], "torch has none to rebuild"),
            Refused(["run", "photo.png", "--rebuild"], "add --bundle"),
        ],
        "--json": [Changes(["--json"], TO)],
    },
    "verify": {
        "--backend": [Changes(["--backend", "tensorrt"], VERIFY)],
        "--device": [Changes(["--device", "cuda:99"], VERIFY)],
        "--checkpoint": [
            Refused([*VERIFY, "--checkpoint", "x"], "onnxruntime does not run in PyTorch")
        ],
        "--rebuild": [Refused([*VERIFY, "--rebuild"], "onnxruntime has none to rebuild")],
        "--with": [Changes(["--with", "polygraphy"], VERIFY)],
        "--json": [Changes(["--json"], VERIFY)],
        "--layers": [Refused([*VERIFY, "--layers", "l"], "compares half precision with fp32")],
        "--out": [Changes(["--out", "o"], VERIFY)],
    },
    "bulk": {
        "--bundle": called(IN_BULK, BULK, "--bundle", "normals"),
        "--out": called(IN_BULK, BULK, "--out", "other"),
        "--column": [
            *called(IN_BULK, BULK, "--column", "file"),
            Refused([*BULK, "--column", "file"], "one-photo is a folder"),
        ],
        "--topic": [
            *called(IN_BULK, BULK, "--topic", "/rear/image_raw"),
            Refused([*BULK, "--topic", "/rear/image_raw"], "--topic is for logs and data sets"),
        ],
        "--backend": called(IN_BULK, BULK, "--backend", "openvino"),
        "--device": called(IN_BULK, BULK, "--device", "cpu"),
        "--workers": called(IN_BULK, BULK, "--workers", "2"),
        "--cores": called(IN_BULK, BULK, "--cores", "3"),
        "--format": called(IN_BULK, BULK, "--format", "parquet"),
        "--shard": called(IN_BULK, BULK, "--shard", "5"),
        "--address": called(IN_BULK, BULK, "--address", "auto"),
        "--json": [Changes(["--json"], [*BULK[:-1], "photos-done"])],
    },
    "bench": {
        "--backend": [Changes(["--backend", "tensorrt"], BENCH)],
        "--device": [Changes(["--device", "cuda:99"], BENCH)],
        "--checkpoint": [Refused([*BENCH, "--checkpoint", "x"], "nothing here runs in PyTorch")],
        "--frames": called(BENCHED, BENCH, "--frames", "3"),
        "--loop": called(BENCHED, BENCH, "--loop"),
        "--rate": [
            *called(BENCHED, [*BENCH, "--loop"], "--rate", "7"),
            Refused([*BENCH, "--rate", "7"], "--rate and --seconds need --loop"),
        ],
        "--seconds": [
            *called(BENCHED, [*BENCH, "--loop"], "--seconds", "7"),
            Refused([*BENCH, "--seconds", "7"], "--rate and --seconds need --loop"),
        ],
        "--against": [Changes(["--against", "onnxruntime"], BENCH)],
        "--rebuild": [Refused([*BENCH, "--rebuild"], "holds no plan that could be built again")],
        "--json": [Changes(["--json"], BENCH)],
    },
    "serve": {
        "--port": called(SERVER, SERVE, "--port", "0"),
        "--name": [
            *called(SERVER, SERVE, "--name", "n"),
            Refused([*SERVE, "--port", "0", "--name", "a/b"], "--name is 'a/b'; expected"),
        ],
        "--backend": called(SERVER, SERVE, "--backend", "onnxruntime"),
        "--device": called(SERVER, SERVE, "--device", "cpu"),
        "--frame-size": [
            *called(SERVER, SERVE, "--frame-size", "24x32"),
            Refused([*SERVE, "--port", "0", "--frame-size", "48x64"], "has no graph for frames"),
        ],
        "--queue": called(SERVER, SERVE, "--queue", "2"),
        "--timeout": called(SERVER, SERVE, "--timeout", "2"),
    },
    "inspect": {
        "--task": [Refused(["inspect", "depth", "--task", "depth"], "--task is for checkpoints")],
        "--family": [
            Refused(["inspect", "depth", "--family", "e2e-ft"], "--family is for checkpoints")
        ],
        "--json": [Changes(["--json"], ["inspect", "depth"])],
        "--engine": [Refused(["inspect", "depth", "--engine"], "holds no plan")],
    },
    "doctor": {"--json": [Changes(["--json"], ["doctor"], DOCTOR, True)]},
    "demo": {"--out": called(DEMO, ["demo"], "--out", "elsewhere")},
    "export": {
        "--out": called(EXPORTER, ["export"], "--out", "o"),
        "--precision": called(EXPORTER, ["export"], "--precision", "fp16"),
        "--accept-accuracy": [
            *called(EXPORTER, ["export", "--precision", "int8"], "--accept-accuracy"),
            Refused(["export", "--accept-accuracy"], "--accept-accuracy is for int8"),
        ],
        "--frame-size": called(EXPORTER, ["export"], "--frame-size", "48x64"),
        "--resolution": called(EXPORTER, ["export"], "--resolution", "128"),
        "--pad": called(EXPORTER, ["export"], "--pad", "64"),
        "--batch": called(EXPORTER, ["export"], "--batch", "2"),
        "--graph": called(EXPORTER, ["export"], "--graph", "core"),
        "--dynamic": [
            *called(EXPORTER, ["export", "--graph", "core"], "--dynamic"),
            Refused(["export", "--dynamic"], "--dynamic needs --graph core"),
        ],
        "--no-specialize": called(EXPORTER, ["export"], "--no-specialize"),
        "--engine": [
            *called(EXPORTER, ["export"], "--engine", "onnx"),
            Refused(["export", "--graph", "core", "--engine", "inductor"], "takes frames"),
        ],
        "--target": [
            *called(EXPORTER, ["export"], "--target", "sm89"),
            Refused([*NO_PLAN, "--target", "sm89"], "--engine onnx has none"),
            Refused(["export", "--engine", "inductor", "--target", "sm89"], "device at hand"),
        ],
        "--opt-level": [
            *called(EXPORTER, ["export"], "--opt-level", "1"),
            Refused([*NO_PLAN, "--opt-level", "1"], "--engine onnx has none"),
        ],
        "--workspace": [
            *called(EXPORTER, ["export"], "--workspace", "100"),
            Refused([*NO_PLAN, "--workspace", "100"], "--engine onnx has none"),
            Refused(["export", "--engine", "inductor", "--workspace", "100"], "has no effect with"),
        ],
        "--triton": [
            Changes(["--triton", "models"], ["export", "depth"]),
            Refused(["export", "depth", "--triton", "m", "--batch", "2"], "--batch is for"),
            Refused(["export", "depth", "--triton", "depth"], "--triton is depth, which lies in"),
        ],
        "--vae": called(EXPORTER, ["export"], "--vae", "small"),
        "--vae-part": (
            *called(EXPORTER, ["export", "--vae", "small"], "--vae-part", "decoder"),
            Refused(
                ["export", "--vae-part", "decoder"], "--vae-part is a half of what --vae names"
            ),
        ),
        "--task": called(EXPORTER, ["export"], "--task", "normals"),
        "--family": called(EXPORTER, ["export"], "--family", "marigold"),
        "--domain": [
            *called(EXPORTER, ["export"], "--domain", "outdoor"),
            Refused(["export", "--domain", "outdoor"], "--domain has no effect on"),
        ],
        "--stretch": [
            *called(EXPORTER, ["export"], "--stretch", "frame"),
            Refused(["export", "--stretch", "frame"], "--stretch has no effect on"),
        ],
        "--seed": [
            *called(EXPORTER, ["export"], "--seed", "7"),
            Refused(["export", "--seed", "7"], "--seed has no effect on"),
            Refused(["export", "--seed", "-1"], "-1 is not in the range"),
        ],
    },
    "train": {
        "--out": called(TRAIN, ["train", "run.toml"], "--out", "o"),
        "--steps": called(TRAIN, ["train", "run.toml"], "--steps", "7"),
        "--resume": called(TRAIN, ["train", "run.toml"], "--no-resume"),
    },
    "eval": {
        option: called(EVALUATE, ["eval", "depth", "data"], option, value)
        for option, value in {
            "--split": "val",
            "--result": "normals",
            "--limit": "7",
            "--resolution": "128",
            "--rows": "o.csv",
            "--worst": "o.png",
            "--task": "normals",
            "--family": "marigold",
            "--backend": "torch",
            "--steps": "4",
            "--spacing": "leading",
            "--ensemble": "3",
            "--seed": "7",
            "--device": "cpu",
        }.items()
    }
    | {
        "--protocol": [
            Refused([*BY_PROTOCOL, "--split", "val"], "--split is for folder data sets")
        ],
        "--json": [Changes(["--json"], ["eval", "depth", "data"], EVALUATE, True)],
    }
    | {
        option: [
            *called(PROTOCOL, BY_PROTOCOL, option, *value),
            Refused(["eval", "depth", "data", option, *value], f"{option} needs --protocol"),
        ]
        for option, value in {
            "--sets": ["nyuv2,kitti"],
            "--results": ["elsewhere"],
            "--kitti-mask": ["garg"],
        }.items()
    }
    | {
        "--published-input": [
            *called(PROTOCOL, BY_PROTOCOL, "--plain-input"),
            Refused(
                ["eval", "depth", "data", "--plain-input"], "--published-input needs --protocol"
            ),
        ]
    },
    "results": {
        "--html": called(COMPARE, ["results", "r"], "--html", "o.html"),
        "--markdown": called(COMPARE, ["results", "r"], "--markdown", "o.md"),
        "--json": [Changes(["--json"], ["results", "made-results"])],
    },
    "data prepare": {
        "--workers": called(
            PREPARE, ["data", "prepare", "hypersim", "photos", "o"], "--workers", "2"
        ),
        "--on-bad": called(
            PREPARE, ["data", "prepare", "hypersim", "photos", "o"], "--on-bad", "stop"
        ),
        "--no-normals": called(
            PREPARE, ["data", "prepare", "hypersim", "photos", "o"], "--no-normals"
        ),
        "--val-scene": called(
            PREPARE, ["data", "prepare", "vkitti2", "photos", "o"], "--val-scene", "Scene01"
        ),
        "--json": [
            Changes(["--json"], ["data", "prepare", "hypersim", "photos", "o"], PREPARE, True)
        ],
    },
    "data render": {
        option: called(RENDER, ["data", "render", "o"], option, value)
        for option, value in {
            "--train": "7",
            "--val": "7",
            "--test": "7",
            "--size": "48x64",
            "--seed": "7",
            "--samples": "7",
            "--workers": "2",
        }.items()
    },
    "data pack": {
        "--shard-mb": called(PACK, ["data", "pack", "photos", "o"], "--shard-mb", "9"),
        "--json": [Changes(["--json"], ["data", "pack", "photos", "o"], PACK, True)],
    },
    "data check": {
        "--sheet": called(CHECK, ["data", "check", "photos"], "--sheet", "o.png"),
        "--json": [Changes(["--json"], ["data", "check", "photos"], CHECK, True)],
    },
}
