"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from planish.serving.model import ServedModel

REASONS = ("runtime", "not_finite", "wrong_answer", "no_answer", "error")  # reasons of failures
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass
class Metrics:
    """The metrics of one service, in a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        of_model = ["model", "version"]
        self.requests = Counter("planish_requests", "Requests by status.", [*of_model, "status"], registry=self.registry)
        self.failures = Counter("planish_failures", "Failures of the service, by reason.", [*of_model, "reason"], registry=self.registry)
        self.reload_failures = Counter("planish_reload_failures", "New bundles that were not served.", of_model, registry=self.registry)
        self.ready = Gauge("planish_ready", "1 where the model gives its known answers.", of_model, registry=self.registry)
        self.seconds = Histogram("planish_request_seconds", "From request to answer.", of_model, buckets=_SECONDS, registry=self.registry)
        self.model_seconds = Histogram("planish_model_seconds", "Of one batch.", of_model, buckets=_SECONDS, registry=self.registry)
        self.batches = Histogram("planish_batch_images", "Images a batch.", of_model, buckets=_IMAGES, registry=self.registry)
        self.queued = Gauge("planish_queued_images", "Images that wait.", of_model, registry=self.registry)
        self.classes = Counter("planish_predictions", "Answers by class.", [*of_model, "class"], registry=self.registry)
        self.watched = Gauge("planish_drift_images", "Looked at in this period.", of_model, registry=self.registry)
        self.compared = Gauge("planish_drift_compared_images", "Compared for drift in this period.", of_model, registry=self.registry)
        self.drift = Gauge("planish_drift", "1 where this drifted in this period.", [*of_model, "of"], registry=self.registry)

    def watch(self, model: ServedModel, queued: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Register gauges that read a model's queue, readiness and drift whenever the metrics are scraped."""
        drift = model.drift
        for reason in REASONS:  # start at 0: an alert on an increase misses the first failure of a series that begins with 1
            self.failures.labels(*model.key, reason)
        self.reload_failures.labels(*model.key)
        self.queued.labels(*model.key).set_function(queued)
        self.ready.labels(*model.key).set_function(ready)
        self.watched.labels(*model.key).set_function(lambda: drift.images)
        self.compared.labels(*model.key).set_function(lambda: drift.compared)
        for kind in drift.kinds:
            self.drift.labels(*model.key, kind).set_function(partial(drift.drifted, kind))

    def batch(self, model: ServedModel, images: int, seconds: float) -> None:
        """Record the size and duration of a batch."""
        self.batches.labels(*model.key).observe(images)
        self.model_seconds.labels(*model.key).observe(seconds)
