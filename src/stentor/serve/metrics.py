"""What /metrics tells: a registry of our own, so that servers in one process don't mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = here = CollectorRegistry()
        model = ["model"]
        self._requests = Counter(
            "stentor_requests", "Requests answered.", ["path", "status"], registry=here
        )
        self._tokens = Counter("stentor_tokens", "Tokens.", ["model", "kind"], registry=here)
        self._replies = Counter(
            "stentor_replies",
            "Replies ended, and how: stop, length, gone, late, error.",
            ["model", "end"],
            registry=here,
        )
        self._first = Histogram(
            "stentor_first_text_seconds", "From request to first text.", model, registry=here
        )
        self._whole = Histogram(
            "stentor_reply_seconds", "From request to end.", model, registry=here
        )
        self._running = Gauge("stentor_running", "Replies being decoded.", model, registry=here)
        self._waiting = Gauge("stentor_waiting", "Replies that wait.", model, registry=here)
        self._steps = Gauge("stentor_steps", "Decoding steps so far.", model, registry=here)
        self._failures = Gauge(
            "stentor_failed_steps", "Decoding steps that failed so far.", model, registry=here
        )

    def watch(
        self,
        model: str,
        running: Callable[[], float],
        waiting: Callable[[], float],
        steps: Callable[[], float],
        failures: Callable[[], float],
    ) -> None:
        """Read these whenever the metrics are asked for."""
        self._running.labels(model).set_function(running)
        self._waiting.labels(model).set_function(waiting)
        self._steps.labels(model).set_function(steps)
        self._failures.labels(model).set_function(failures)

    def answered(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def ended(self, model: str, end: str, prompt: int, completion: int, seconds: float) -> None:
        self._replies.labels(model, end).inc()
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "completion").inc(completion)
        self._whole.labels(model).observe(seconds)

    def first_text(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
