"""e2e-deploy: single-step diffusion depth and surface normals, from training to a real-time engine.

    import e2e_deploy as e2e

    bundle = e2e.export_bundle("checkpoint-or-hub-id", "my-bundle", precision="fp16", frame_sizes=[(480, 640)])
    with e2e.load("my-bundle") as engine:
        depth = engine.predict(e2e.read_picture("photo.jpg"))  # float32 [H, W], 0 = near, 1 = far

Everything here is imported when it is first used: ``import e2e_deploy`` itself imports no other package.
"""

import importlib
from typing import TYPE_CHECKING, Any

from e2e_deploy.version import __version__ as __version__

if TYPE_CHECKING:
    from e2e_deploy.assets import READY_BUNDLE as READY_BUNDLE
    from e2e_deploy.bundle.bundle import Bundle as Bundle
    from e2e_deploy.bundle.bundle import open_bundle as open_bundle
    from e2e_deploy.bundle.manifest import Manifest as Manifest
    from e2e_deploy.errors import BundleError as BundleError
    from e2e_deploy.errors import CheckpointError as CheckpointError
    from e2e_deploy.errors import DataError as DataError
    from e2e_deploy.errors import E2EDeployError as E2EDeployError
    from e2e_deploy.errors import InputError as InputError
    from e2e_deploy.errors import ParityError as ParityError
    from e2e_deploy.errors import PlanDamagedError as PlanDamagedError
    from e2e_deploy.errors import PlanMismatchError as PlanMismatchError
    from e2e_deploy.errors import SourceError as SourceError
    from e2e_deploy.errors import UnavailableError as UnavailableError
    from e2e_deploy.errors import UsageError as UsageError
    from e2e_deploy.export.drift import LayerDrift as LayerDrift
    from e2e_deploy.export.drift import report_drift as report_drift
    from e2e_deploy.export.engines.rebuild import rebuild_plans as rebuild_plans
    from e2e_deploy.export.exporter import export_bundle as export_bundle
    from e2e_deploy.export.triton.repository import TritonModel as TritonModel
    from e2e_deploy.export.triton.repository import export_triton as export_triton
    from e2e_deploy.model.checkpoint import Checkpoint as Checkpoint
    from e2e_deploy.runtime.bulk.bulk import bulk as bulk
    from e2e_deploy.runtime.bulk.report import BulkReport as BulkReport
    from e2e_deploy.runtime.camera.intrinsics import Intrinsics as Intrinsics
    from e2e_deploy.runtime.checks.bench import BenchReport as BenchReport
    from e2e_deploy.runtime.checks.bench import bench as bench
    from e2e_deploy.runtime.checks.verify import NotCompared as NotCompared
    from e2e_deploy.runtime.checks.verify import Verdict as Verdict
    from e2e_deploy.runtime.checks.verify import Verification as Verification
    from e2e_deploy.runtime.checks.verify import verify_bundle as verify_bundle
    from e2e_deploy.runtime.engine import Engine as Engine
    from e2e_deploy.runtime.engine import load as load
    from e2e_deploy.runtime.report import RunReport as RunReport
    from e2e_deploy.runtime.run import run as run
    from e2e_deploy.runtime.serve.server import ModelServer as ModelServer
    from e2e_deploy.runtime.serve.server import ServeReport as ServeReport
    from e2e_deploy.runtime.serve.server import serve as serve
    from e2e_deploy.runtime.sinks.sink import CallbackSink as CallbackSink
    from e2e_deploy.runtime.sinks.sink import Sink as Sink
    from e2e_deploy.runtime.sources.picture_file import read_picture as read_picture
    from e2e_deploy.runtime.sources.source import SourceFrame as SourceFrame
    from e2e_deploy.runtime.steps.metric import MetricFit as MetricFit
    from e2e_deploy.runtime.steps.metric import fit_metric as fit_metric
    from e2e_deploy.train.accuracy import Evaluation as Evaluation
    from e2e_deploy.train.comparison.comparison import Comparison as Comparison
    from e2e_deploy.train.comparison.results import compare_results as compare_results
    from e2e_deploy.train.comparison.text import comparison_text as comparison_text
    from e2e_deploy.train.config.settings import TrainConfig as TrainConfig
    from e2e_deploy.train.data.check import CheckReport as CheckReport
    from e2e_deploy.train.data.check import check_data as check_data
    from e2e_deploy.train.preparation.conversion import PrepareReport as PrepareReport
    from e2e_deploy.train.preparation.pack import PackReport as PackReport
    from e2e_deploy.train.preparation.pack import pack_data as pack_data
    from e2e_deploy.train.preparation.prepare import prepare_data as prepare_data
    from e2e_deploy.train.protocol.result import SetResult as SetResult
    from e2e_deploy.train.protocol.run import ProtocolReport as ProtocolReport
    from e2e_deploy.train.rendering.render import render_data as render_data
    from e2e_deploy.train.run.loop import TrainResult as TrainResult
    from e2e_deploy.train.training import train_model as train_model
    from e2e_deploy.verbs.demo import DemoReport as DemoReport
    from e2e_deploy.verbs.demo import demo as demo
    from e2e_deploy.verbs.doctor import Finding as Finding
    from e2e_deploy.verbs.doctor import doctor as doctor
    from e2e_deploy.verbs.evaluate import evaluate as evaluate
    from e2e_deploy.verbs.inspect import CheckpointFacts as CheckpointFacts
    from e2e_deploy.verbs.inspect import PlanFacts as PlanFacts
    from e2e_deploy.verbs.inspect import inspect as inspect
    from e2e_deploy.verbs.inspect import inspect_plans as inspect_plans
    from e2e_deploy.verbs.protocol import evaluate_protocol as evaluate_protocol

# name: the module it is in
_WHERE = {
    "READY_BUNDLE": "assets",
    "Bundle": "bundle.bundle",
    "open_bundle": "bundle.bundle",
    "Manifest": "bundle.manifest",
    "report_drift": "export.drift",
    "Checkpoint": "model.checkpoint",
    "NotCompared": "runtime.checks.verify",
    "Verification": "runtime.checks.verify",
    "Finding": "verbs.doctor",
    "CheckpointFacts": "verbs.inspect",
    "PlanFacts": "verbs.inspect",
    "LayerDrift": "export.drift",
    "export_bundle": "export.exporter",
    "export_triton": "export.triton.repository",
    "TritonModel": "export.triton.repository",
    "rebuild_plans": "export.engines.rebuild",
    "bench": "runtime.checks.bench",
    "BenchReport": "runtime.checks.bench",
    "verify_bundle": "runtime.checks.verify",
    "run": "runtime.run",
    "bulk": "runtime.bulk.bulk",
    "BulkReport": "runtime.bulk.report",
    "serve": "runtime.serve.server",
    "ModelServer": "runtime.serve.server",
    "ServeReport": "runtime.serve.server",
    "Verdict": "runtime.checks.verify",
    "Intrinsics": "runtime.camera.intrinsics",
    "fit_metric": "runtime.steps.metric",
    "MetricFit": "runtime.steps.metric",
    "SourceFrame": "runtime.sources.source",
    "Sink": "runtime.sinks.sink",
    "CallbackSink": "runtime.sinks.sink",
    "RunReport": "runtime.report",
    "Engine": "runtime.engine",
    "load": "runtime.engine",
    "train_model": "train.training",
    "TrainConfig": "train.config.settings",
    "TrainResult": "train.run.loop",
    "prepare_data": "train.preparation.prepare",
    "pack_data": "train.preparation.pack",
    "PackReport": "train.preparation.pack",
    "render_data": "train.rendering.render",
    "check_data": "train.data.check",
    "PrepareReport": "train.preparation.conversion",
    "CheckReport": "train.data.check",
    "evaluate": "verbs.evaluate",
    "Evaluation": "train.accuracy",
    "evaluate_protocol": "verbs.protocol",
    "ProtocolReport": "train.protocol.run",
    "SetResult": "train.protocol.result",
    "Comparison": "train.comparison.comparison",
    "compare_results": "train.comparison.results",
    "comparison_text": "train.comparison.text",
    "read_picture": "runtime.sources.picture_file",
    "demo": "verbs.demo",
    "doctor": "verbs.doctor",
    "inspect": "verbs.inspect",
    "inspect_plans": "verbs.inspect",
    "DemoReport": "verbs.demo",
}
_WHERE |= dict.fromkeys(
    (
        *("E2EDeployError", "UsageError", "ParityError", "UnavailableError", "PlanMismatchError"),
        *(
            "InputError",
            "CheckpointError",
            "BundleError",
            "PlanDamagedError",
            "SourceError",
            "DataError",
        ),
    ),
    "errors",
)

__all__ = ["__version__", *_WHERE]


if not TYPE_CHECKING:  # to a type checker a name that is not above is a mistake

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module 'e2e_deploy' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"e2e_deploy.{_WHERE[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
