"""Metrics for Prometheus: counts of requests, and figures that the engine reports.

Each app has a registry of its own, so that several can live in one process. Routes are labelled by their
pattern, never by the requested address: clients cannot create labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sanakit.errors import StorageError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Numbers of `Engine.stats` that only grow; the others go up and down.
_TOTALS = {"steps", "samples", "pictures", "clips", "chunks", "failed", "stopped", "refused", "failed_steps"}

Stats = Callable[[], dict[str, Any]]


class Metrics:
    """The figures of one app.

    stats: `Engine.stats`. jobs: `JobStore.counts`. clips, worlds: `ClipEngine.stats` and `WorldEngine.stats`,
    where there is one.
    """

    def __init__(
        self,
        stats: Stats,
        jobs: Callable[[], dict[str, int]],
        clips: Stats | None = None,
        worlds: Stats | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sana_http_requests",
            "Answered requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "sana_http_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "sana_http_open_requests", "Requests being answered.", registry=self.registry
        )
        self.filtered = Counter(
            "sana_filtered", "Requests that a safety filter refused.", registry=self.registry
        )
        self.disconnected = Counter(
            "sana_disconnected", "Requests whose client left before the answer.", registry=self.registry
        )
        engines = {"engine": stats} | ({"clip_engine": clips} if clips else {})
        engines |= {"world_engine": worlds} if worlds else {}
        self.registry.register(_Stats(engines, jobs))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. method: as it came; unusual ones share a label."""
        method = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Stats(Collector):
    def __init__(self, engines: dict[str, Stats], jobs: Callable[[], dict[str, int]]) -> None:
        self._engines, self._jobs = engines, jobs

    def collect(self) -> Iterator[Metric]:
        for engine, stats in self._engines.items():
            for name, value in stats().items():
                number = len(value) if isinstance(value, list) else value  # of the models in memory
                kind = CounterMetricFamily if name in _TOTALS else GaugeMetricFamily
                told = f"{name.capitalize()}, see {engine.title().replace('_', '')}.stats."
                yield kind(f"sana_{engine}_{name}", told, value=number)
        jobs = GaugeMetricFamily("sana_jobs", "Jobs in the database.", labels=["status"])
        with suppress(StorageError):  # /ready tells of that
            for status, number in self._jobs().items():
                jobs.add_metric([status], number)
        yield jobs

    def describe(self) -> list[Metric]:
        return []  # the names are known when the parts are asked
