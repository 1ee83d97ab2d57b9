"""What a server counts, for Prometheus: in a registry of its own, so that several servers of a process do not mix."""

from e2e_deploy.packages import require

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FRAMES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters and histograms of one server.

    Raises:
        UnavailableError: prometheus_client is not installed.
    """

    def __init__(self, model: str) -> None:
        library = require("prometheus_client", "serve")
        self._library = library
        self._registry = library.CollectorRegistry()
        common = {"registry": self._registry, "namespace": "e2e_deploy"}
        self._answers = library.Counter(
            "requests", "Requests that were answered.", ["model", "kind", "status"], **common
        )
        self._refused = library.Counter(
            "refused", "Requests that were not computed, by reason.", ["model", "reason"], **common
        )
        self._request_s = library.Histogram(
            "request_seconds",
            "From the head of a request to its answer.",
            ["model", "kind"],
            buckets=_SECONDS,
            **common,
        )
        self._engine_s = library.Histogram(
            "engine_seconds", "Of a call of the engine.", ["model"], buckets=_SECONDS, **common
        ).labels(model)
        self._frames = library.Histogram(
            "batch_frames", "Frames in a call of the engine.", ["model"], buckets=_FRAMES, **common
        ).labels(model)
        self._taken = library.Gauge(
            "requests_on_their_way", "Requests that hold a place.", ["model"], **common
        ).labels(model)
        self._model = model

    def call(self, frames: int, seconds: float) -> None:
        """Count a call of the engine."""
        self._engine_s.observe(seconds)
        self._frames.observe(frames)

    def answer(self, kind: str, status: int, seconds: float, refused: str | None) -> None:
        """Count an answer: to ``kind``, infer or picture, with a status of HTTP, and why if it was refused."""
        self._answers.labels(self._model, kind, str(status)).inc()
        self._request_s.labels(self._model, kind).observe(seconds)
        if refused is not None:
            self._refused.labels(self._model, refused).inc()

    def text(self, taken: int) -> bytes:
        """All of it in Prometheus' text format."""
        self._taken.set(taken)
        exposed: bytes = self._library.generate_latest(self._registry)
        return exposed
