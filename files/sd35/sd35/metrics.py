"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sd35.gpu import GpuMemory

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.jobs = Counter(
            "gpuhost_sd35_jobs", "Jobs that ended, by what became of them.", ["result"], registry=registry
        )
        self.job_seconds = Histogram(
            "gpuhost_sd35_job_seconds", "Seconds of a job that was completed.", registry=registry, buckets=BUCKETS_S
        )
        self.load_failures = Counter("gpuhost_sd35_load_failures", "Times the model was not loaded.", registry=registry)
        self.load_seconds = Gauge("gpuhost_sd35_load_seconds", "Seconds of the last loading.", registry=registry)
        self._waiting = Gauge("gpuhost_sd35_jobs_waiting", "Jobs that wait now.", registry=registry)
        self._ready = Gauge("gpuhost_sd35_model_ready", "1 while the model is loaded.", registry=registry)
        self._gpu = Gauge("gpuhost_sd35_gpu_up", "1 when NVML sees the GPU.", registry=registry)
        self._used = Gauge(
            "gpuhost_sd35_gpu_memory_used_bytes", "Of the whole GPU, other containers included.", registry=registry
        )

    def render(self, waiting: int, ready: bool, gpu: GpuMemory | None) -> bytes:
        """The exposition text."""
        self._waiting.set(waiting)
        self._ready.set(ready)
        self._gpu.set(gpu is not None)
        self._used.set(float("nan") if gpu is None else gpu.used_mib << 20)
        return generate_latest(self._registry)
