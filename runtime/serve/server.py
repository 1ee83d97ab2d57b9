"""A server of one bundle on this machine: made, asked to end, ended, with what it took answered."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.served import model_name
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.names import BackendChoice
from e2e_deploy.packages import require
from e2e_deploy.runtime.engine import load
from e2e_deploy.runtime.serve.app import HOSTS, Served, make_app
from e2e_deploy.runtime.serve.connection import connection_class
from e2e_deploy.runtime.serve.limits import GRACE_S, MAX_QUEUE, body_limit
from e2e_deploy.runtime.serve.metrics import Metrics
from e2e_deploy.runtime.serve.turns import Turns

PORT = 8000
QUEUE = 32
TIMEOUT_S = 10.0
_START_S = 30.0
_HELPERS = 2  # that read requests and write answers beside the engine


@dataclass(frozen=True)
class ServeReport:
    """What a server did.

    Attributes:
        answered: requests that got results.
        refused: requests that got an error, by a word for why: full, request, large, slow, gone, engine, server,
            ending.
        seconds: from its start to its end.
        complete: whether everything that was taken was answered before it ended.
    """

    answered: int
    refused: dict[str, int]
    seconds: float
    complete: bool


class ModelServer:
    """A bundle's engine over HTTP at 127.0.0.1, in threads of its own, until it is closed.

    Speaks the KServe v2 protocol with JSON and binary tensors (``/v2``, ``/v2/health/live``, ``/v2/health/ready``,
    ``/v2/models/NAME``, ``.../ready``, ``.../infer``), takes a picture's file at ``/v2/models/NAME/picture``, answered
    by a 16-bit PNG whose header X-Result tells its numbers, and counts for Prometheus at ``/metrics``. Requests that
    wait together are computed together, up to the engine's batch.

    Args:
        bundle: its folder, or an opened Bundle.
        port: 0 takes a free one.
        name: of the model; the bundle's folder if None, with the frame size where the bundle holds several.
        backend: as for ``load``.
        device: as for ``load``.
        frame_size: (H, W) of the graph to serve; of a bundle that holds several, the first if None.
        queue: requests that may be on their way at once; more are refused with 429. Memory is bounded by it.
        timeout_s: seconds in which a request must be there, and its answer be taken.

    Attributes:
        url: ``http://127.0.0.1:PORT``.
        name: of the model.
        engine: what computes.

    Raises:
        UsageError: a number outside its range, an unusable name, or what ``load`` refuses.
        UnavailableError: the port is taken, a package of the extra ``serve`` is missing, or what ``load`` misses.
        BundleError: as ``load``.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        port: int = PORT,
        name: str | None = None,
        backend: BackendChoice = "auto",
        device: str = "auto",
        frame_size: tuple[int, int] | None = None,
        queue: int = QUEUE,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        for what, number, low, high in (
            ("port", port, 0, 65535),
            ("queue", queue, 1, MAX_QUEUE),
            ("timeout_s", timeout_s, 0.1, 86400),
        ):
            if not low <= number <= high:
                raise UsageError(f"`{what}` is {number}; expected {low} to {high}")
        uvicorn: Any = require("uvicorn", "serve")
        for package in ("fastapi", "prometheus_client"):
            require(package, "serve")
        connection = connection_class(timeout_s)
        self._start_s = time.monotonic()
        self._report: ServeReport | None = None
        self._socket = _bound(port)
        self.url = f"http://{HOSTS[0]}:{self._socket.getsockname()[1]}"
        try:
            self.engine = load(bundle, backend=backend, device=device, frame_size=frame_size)
        except BaseException:
            self._socket.close()
            raise
        try:
            engine = self.engine
            self.name = model_name(engine.bundle, engine.graph, name)
            metrics = Metrics(self.name)
            self._turns = Turns(engine, queue, metrics.call)
            self._pool = ThreadPoolExecutor(_HELPERS, "e2e-deploy serve")
            frame_bytes = engine.batch * engine.frame_size[0] * engine.frame_size[1] * 3
            self._served = Served(
                *(self.name, engine, self._turns, metrics, body_limit(frame_bytes), timeout_s),
                self._pool,
            )
            self._server = uvicorn.Server(
                uvicorn.Config(
                    make_app(self._served),
                    http=connection,
                    loop="asyncio",
                    ws="none",
                    lifespan="off",
                    interface="asgi3",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    timeout_graceful_shutdown=int(GRACE_S),
                )
            )
        except BaseException:
            self._socket.close()
            engine.close()
            raise
        # In the main thread uvicorn would take over the signals of the process.
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._socket]},
            name="e2e-deploy http",
            daemon=True,
        )
        self._thread.start()
        self._wait_for_start()

    def __repr__(self) -> str:
        state = "open" if self._report is None else "closed"
        return f"<ModelServer {self.name} at {self.url}, {state}>"

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_for_start(self) -> None:
        ends_s = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > ends_s:
                self.close()
                raise E2EDeployError(f"the server at {self.url} did not start")
            time.sleep(0.005)

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return self._report is None and self._thread.is_alive()

    def close(self) -> ServeReport:
        """Take no more, answer what was taken, end; a second call gives the same report."""
        if self._report is not None:
            return self._report
        self._served.ready = False
        self._server.should_exit = True
        self._thread.join(GRACE_S + 5)
        ended = not self._thread.is_alive() and not self._turns.taken
        self._turns.close()
        self._pool.shutdown()
        self._socket.close()
        self.engine.close()
        self._report = ServeReport(
            self._served.answered,
            dict(sorted(self._served.reasons.items())),
            time.monotonic() - self._start_s,
            ended and self._served.complete,
        )
        return self._report


def _bound(port: int) -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOSTS[0], port))
        taken.listen()  # Linux lets two bind one port, of which the second is refused only here
    except OSError as error:
        taken.close()
        raise UnavailableError(
            f"the server cannot use port {port}: {error.strerror}; name another one with `port`, 0 takes any that is "
            "free"
        ) from None
    taken.set_inheritable(False)
    return taken


def serve(
    bundle: str | Path | Bundle,
    *,
    port: int = PORT,
    name: str | None = None,
    backend: BackendChoice = "auto",
    device: str = "auto",
    frame_size: tuple[int, int] | None = None,
    queue: int = QUEUE,
    timeout_s: float = TIMEOUT_S,
    on_start: Callable[[ModelServer], None] = lambda server: None,
) -> ServeReport:
    """Serve a bundle until Ctrl-C (KeyboardInterrupt), then answer what was taken and return.

    Args:
        bundle: its folder, or an opened Bundle.
        port: at 127.0.0.1; 0 takes a free one.
        name: of the model; the bundle's folder if None, with the frame size where the bundle holds several.
        backend: as for ``load``.
        device: as for ``load``.
        frame_size: (H, W) of the graph to serve; of a bundle that holds several, the first if None.
        queue: requests that may be on their way at once; more are refused with 429.
        timeout_s: seconds in which a request must be there, and its answer be taken.
        on_start: told of the server when it takes requests.

    Raises:
        UsageError: as ``ModelServer``.
        UnavailableError: as ``ModelServer``.
        BundleError: as ``ModelServer``.
        E2EDeployError: the server ended by itself.
        KeyboardInterrupt: a second Ctrl-C, before all was answered.
    """
    server = ModelServer(
        bundle,
        port=port,
        name=name,
        backend=backend,
        device=device,
        frame_size=frame_size,
        queue=queue,
        timeout_s=timeout_s,
    )
    try:
        on_start(server)
        while server.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        return server.close()
    except BaseException:
        server.close()
        raise
    server.close()
    raise E2EDeployError(f"the server at {server.url} ended by itself")
