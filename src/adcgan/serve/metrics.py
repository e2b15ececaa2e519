"""What a service tells Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from adcgan.scoring import Drift

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# The gauge of each field of `Drift`.
_DRIFT = {
    "n": ("images", "Last images scored, which are compared with the held-out normal ones."),
    "share_above": ("share_above", "Share of the last images above the model's threshold."),
    "statistic": ("ks_statistic", "Kolmogorov-Smirnov statistic of that comparison."),
    "p_value": ("ks_p_value", "p-value of that statistic."),
}


class Metrics:
    """The metrics of one service, in a registry of their own."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter("adcgan_requests", "Requests answered.", ["path", "status"])
        self.seconds = histogram(
            "adcgan_request_seconds",
            "Time from a request's head to the end of its response.",
            ["path"],
            buckets=_SECONDS,
        )
        self.images = counter("adcgan_images", "Images by outcome.", ["outcome"])
        for outcome in ("normal", "anomalous", "unreadable"):
            self.images.labels(outcome)
        self.batch_images = histogram(
            "adcgan_batch_images", "Images scored together.", buckets=_SIZES
        )
        self.batch_seconds = histogram(
            "adcgan_batch_seconds", "Time to score a batch.", buckets=_SECONDS
        )
        self.queue_images = gauge("adcgan_queue_images", "Images accepted but not yet scored.")
        self.in_progress = gauge("adcgan_requests_in_progress", "Requests in progress.")
        self._drift = {
            field: gauge(f"adcgan_drift_{name}", text) for field, (name, text) in _DRIFT.items()
        }

    def text(self, drift: Drift) -> bytes:
        """Return all metrics in Prometheus's text format, with the given drift."""
        for field, gauge in self._drift.items():
            gauge.set(getattr(drift, field))
        return generate_latest(self._registry)
