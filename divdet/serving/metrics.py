"""What the service counts, in Prometheus's terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Metrics:
    """Counters with a registry of their own, so that several services of one process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "divdet_requests", "Answered requests, by path and status", ["path", "status"], registry=registry
        )
        self.active = Gauge("divdet_active_requests", "Requests that are being received or answered", registry=registry)
        self.queue = Gauge("divdet_queue_length", "Images taken in and not yet answered", registry=registry)
        self.batch = Histogram("divdet_batch_size", "Images per forward pass", buckets=_BATCHES, registry=registry)
        self.stages = Histogram(
            "divdet_stage_seconds", "Time of answered images, by stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("divdet_images", "Images in which objects were looked for", registry=registry)
        self.objects = Counter("divdet_objects", "Objects that were answered", registry=registry)
        self.dropped = Counter(
            "divdet_dropped_images",
            "Images whose client went away, or gave up, before they were begun",
            registry=registry,
        )

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)
