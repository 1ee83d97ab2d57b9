"""The endpoints: the KServe v2 protocol, a picture's file in and PNG out, Prometheus' metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from e2e_deploy.bundle.served import VERSION
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.packages import require
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.serve.bodies import ClientGoneError, read_away, read_body
from e2e_deploy.runtime.serve.limits import RefusedError
from e2e_deploy.runtime.serve.metrics import CONTENT_TYPE, Metrics
from e2e_deploy.runtime.serve.pictures import as_png, open_picture
from e2e_deploy.runtime.serve.tensors import (
    HEADER_LENGTH,
    bad,
    metadata,
    read_request,
    write_answer,
)
from e2e_deploy.runtime.serve.turns import Turns
from e2e_deploy.system.json_files import to_json
from e2e_deploy.system.text import clean
from e2e_deploy.version import __version__

HOSTS = ("127.0.0.1", "localhost")
_GUARDS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass
class Served:
    """What the endpoints serve, and how much of it was done.

    Attributes:
        name: of the model.
        limit: bytes of the largest body.
        timeout_s: seconds in which a body must be there.
        ready: whether requests are taken; false while the server ends.
        complete: whether every request that was taken was answered; the end of the server waits so long and no longer.
        answered: requests that got results.
        refused: requests that got an error.
    """

    name: str
    engine: Engine
    turns: Turns
    metrics: Metrics
    limit: int
    timeout_s: float
    pool: ThreadPoolExecutor
    ready: bool = True
    complete: bool = True
    answered: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What is sent: a body, its type, and further headers."""

    body: bytes
    kind: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


Work = Callable[[Any], Awaitable[Answer]]


def make_app(served: Served) -> Any:
    """The application, for an ASGI server.

    Raises:
        UnavailableError: fastapi is not installed.
    """
    fastapi = require("fastapi", "serve")
    # Its pages of documentation load scripts from elsewhere.
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    request_class, response_class = fastapi.Request, fastapi.Response

    def route(method: str, paths: list[str], work: Work) -> None:
        async def handle(request: Any) -> Any:
            try:
                _require_ours(request)
                answer = await work(request)
            except RefusedError as refusal:
                answer = _refused(refusal)
            return response_class(
                answer.body, answer.status, dict(_GUARDS) | answer.headers, answer.kind
            )

        handle.__annotations__["request"] = request_class
        for path in paths:
            app.add_api_route(path, handle, methods=[method], response_model=None)

    models = ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"]
    route("GET", ["/v2"], lambda request: _json(_about_server()))
    route("GET", ["/v2/health/live"], lambda request: _json({"live": True}))
    route("GET", ["/v2/health/ready"], lambda request: _readiness(served))
    route("GET", models, lambda request: _about_model(served, request))
    route("GET", [f"{path}/ready" for path in models], lambda request: _ready(served, request))
    route("POST", [f"{path}/infer" for path in models], lambda request: _infer(served, request))
    route("POST", [f"{path}/picture" for path in models], lambda request: _picture(served, request))
    route("GET", ["/metrics"], lambda request: _metrics(served))

    async def unknown(request: Any, error: Exception) -> Any:
        status = int(getattr(error, "status_code", 404))
        answer = _refused(
            RefusedError(status, f"there is no {request.method} {request.url.path[:200]}")
        )
        return response_class(answer.body, answer.status, answer.headers, answer.kind)

    app.add_exception_handler(404, unknown)
    app.add_exception_handler(405, unknown)
    return app


def _require_ours(request: Any) -> None:
    """Refuse what a web page of another site may have a browser send here."""
    host = request.headers.get("host", "").partition(":")[0]
    origin = request.headers.get("origin")
    if host not in HOSTS or origin is not None:
        raise RefusedError(403, "this server is for programs on this machine only", closes=True)


def _refused(refusal: RefusedError) -> Answer:
    headers = dict(refusal.headers) | ({"Connection": "close"} if refusal.closes else {})
    body = to_json({"error": refusal.reason}).encode()
    return Answer(body, "application/json", headers, refusal.status)


async def _json(value: Any) -> Answer:
    return Answer(to_json(value).encode(), "application/json")


def _about_server() -> dict[str, Any]:
    return {"name": "e2e-deploy", "version": __version__, "extensions": ["binary_tensor_data"]}


async def _readiness(served: Served) -> Answer:
    if not served.ready:
        raise RefusedError(503, "the server is ending", "ending")
    return await _json({"ready": True})


def _require_model(served: Served, request: Any) -> None:
    name, version = request.path_params["name"], request.path_params.get("version", VERSION)
    if (name, version) != (served.name, VERSION):
        raise RefusedError(
            404,
            clean(
                f"there is no model {name[:100]!r} of version {version[:20]!r}; this server has {served.name!r} of "
                f"version {VERSION!r}"
            ),
        )


async def _about_model(served: Served, request: Any) -> Answer:
    _require_model(served, request)
    platform = f"e2e-deploy_{served.engine.backend.name}"
    return await _json(metadata(served.name, VERSION, platform, served.engine.graph))


async def _ready(served: Served, request: Any) -> Answer:
    _require_model(served, request)
    return await _readiness(served)


async def _metrics(served: Served) -> Answer:
    return Answer(served.metrics.text(served.turns.taken), CONTENT_TYPE)


async def _infer(served: Served, request: Any) -> Answer:
    async def compute(body: bytes) -> Answer:
        engine, length = served.engine, request.headers.get(HEADER_LENGTH)
        if "content-encoding" in request.headers:
            raise RefusedError(415, "compressed requests are not taken; send them as they are")
        asked = await _aside(served, read_request, body, length, engine.graph, engine.outputs)
        results = await asyncio.wrap_future(served.turns.submit(asked.frames))
        data, head = await _aside(served, write_answer, asked, results, served.name, VERSION)
        if head is None:
            return Answer(data, "application/json")
        return Answer(data, "application/octet-stream", {HEADER_LENGTH: str(head)})

    return await _counted(served, request, "infer", compute)


async def _picture(served: Served, request: Any) -> Answer:
    async def compute(body: bytes) -> Answer:
        manifest = served.engine.manifest
        kinds = {kind.output: kind for kind in manifest.kinds}
        wanted = request.query_params.get("output", next(iter(kinds)))
        if wanted not in kinds:
            raise bad(f"the output {wanted[:100]!r} is wanted; this model gives {', '.join(kinds)}")
        frames, fit = await _aside(served, open_picture, body, served.engine.frame_size)
        results = await asyncio.wrap_future(served.turns.submit(frames))
        data, told = await _aside(served, as_png, results[wanted][0], fit, kinds[wanted])
        if manifest.checkpoint.note:
            told["note"] = manifest.checkpoint.note
        return Answer(data, "image/png", {"X-Result": to_json(told)})

    return await _counted(served, request, "picture", compute)


async def _aside(served: Served, work: Callable[..., Any], *given: Any) -> Any:
    """``work(*given)`` in another thread: others are received meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(served.pool, work, *given)


async def _counted(
    served: Served, request: Any, kind: str, compute: Callable[[bytes], Awaitable[Answer]]
) -> Answer:
    """An answer to a request with a body; its place is taken before the body is read."""
    start = time.perf_counter()
    refusal: RefusedError | None = None
    try:
        return await _placed(served, request, compute)
    except RefusedError as error:
        refusal = error
    except ClientGoneError:
        refusal = RefusedError(400, "the request ended before its body", "gone", closes=True)
    except E2EDeployError as error:
        refusal = RefusedError(500, clean(str(error)), "engine")
    except asyncio.CancelledError:  # the server ends and waits no longer
        refusal = RefusedError(
            503, "the server ended before this was computed", "ending", closes=True
        )
    except Exception as error:  # a mistake of ours costs one answer, and never its text
        refusal = RefusedError(500, f"the server failed: {type(error).__name__}", "server")
    finally:
        if refusal is None:
            served.answered += 1
        else:
            served.refused += 1
            served.reasons[refusal.word] = served.reasons.get(refusal.word, 0) + 1
        served.metrics.answer(
            kind,
            refusal.status if refusal else 200,
            time.perf_counter() - start,
            refusal.word if refusal else None,
        )
    if refusal.word == "large":
        with suppress(Exception):
            await read_away(request)
    raise refusal


async def _placed(
    served: Served, request: Any, compute: Callable[[bytes], Awaitable[Answer]]
) -> Answer:
    try:
        _require_model(served, request)
        served.turns.enter()
    except RefusedError:
        # Read away first: a client that still sends does not look for an answer.
        await read_body(request, served.limit, served.timeout_s, keep=False)
        raise
    try:
        return await compute(await read_body(request, served.limit, served.timeout_s))
    except asyncio.CancelledError:
        served.complete = False
        raise
    finally:
        served.turns.leave()
