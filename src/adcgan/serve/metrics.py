"""What a service tells Prometheus about itself."""

from __future__ import annotations

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


class Metrics:
    """The counters of one service, in a registry of its own.

    Attributes
    ----------
    registry : CollectorRegistry
    requests : Counter
        By path and status.
    seconds : Histogram
        From a request's head to the end of its response, by path.
    images : Counter
        By outcome: normal, anomalous, unreadable.
    batch_images : Histogram
        Images scored together.
    batch_seconds : Histogram
        Time to score a batch.
    queue_images, in_progress : Gauge
        Images accepted and not yet scored; requests being answered.
    drift_images, drift_share_above, drift_statistic, drift_p_value : Gauge
        Of the last images scored, against the held-out normal ones: `adcgan.scoring.Drift`.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "adcgan_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "adcgan_request_seconds",
            "Time from a request's head to the end of its response.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter("adcgan_images", "Images by outcome.", ["outcome"], registry=registry)
        for outcome in ("normal", "anomalous", "unreadable"):
            self.images.labels(outcome)
        self.batch_images = Histogram(
            "adcgan_batch_images", "Images scored together.", buckets=_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "adcgan_batch_seconds", "Time to score a batch.", buckets=_SECONDS, registry=registry
        )
        self.queue_images = Gauge(
            "adcgan_queue_images", "Images accepted and not yet scored.", registry=registry
        )
        self.in_progress = Gauge(
            "adcgan_requests_in_progress", "Requests being answered.", registry=registry
        )

        self.drift_images = Gauge(
            "adcgan_drift_images", "Last images scored that the drift is of.", registry=registry
        )
        self.drift_share_above = Gauge(
            "adcgan_drift_share_above",
            "Share of the last images that is above the model's threshold.",
            registry=registry,
        )
        self.drift_statistic = Gauge(
            "adcgan_drift_ks_statistic",
            "Kolmogorov-Smirnov statistic of the last images against held-out normal ones.",
            registry=registry,
        )
        self.drift_p_value = Gauge(
            "adcgan_drift_ks_p_value", "p-value of that statistic.", registry=registry
        )

    def show_drift(self, drift: Drift) -> None:
        """Set the gauges of the drift."""
        self.drift_images.set(drift.n)
        self.drift_share_above.set(drift.share_above)
        self.drift_statistic.set(drift.statistic)
        self.drift_p_value.set(drift.p_value)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)
